"""
Durable lines in hash chains, and bytes stored with them: one SQLite file, and its ``<path>.tip``. This module must not depend
on what the lines mean.

A process may be killed at any moment, and others may write at the same time. The hash of a line is sha256 of the hash of
the line before and of its own canonical JSON, so that altering or removing a line breaks its chain. The tip file holds
each chain's length and last hash, so that lines cut off at the end are noticed too. Not noticed: both files replaced by an
older copy, or rewritten by somebody who knows the format; and the last line of a killed process that had not yet
written the tip, if that line is removed before the file is next written to. Against the first, record the last hash
elsewhere.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from fedtl._util.files import write_bytes
from fedtl.errors import LedgerDamaged
from fedtl.privacy.chain_database import create_file, damaged, locked, reading
from fedtl.privacy.chain_memo import ChainMemo

GENESIS = "0" * 64  # the hash before the first line of a chain
BLOB_BYTES = 1 << 26  # the most bytes of one table row; SQLite holds no blob above 1e9
ChainLine = dict[str, Any]
_IN_PLACE = ChainMemo[str]()  # the name that the lines of a chain state, each with its number


@dataclass
class HashChain:
    """The lines of one name, oldest first, as they were when the file was opened."""

    name: str
    connection: sqlite3.Connection
    read: Callable[[sqlite3.Connection, str], "HashChain"] = field(
        repr=False
    )  # another chain of the same file
    entries: list[tuple[str, str]] = field(default_factory=list)  # canonical JSON and hash

    @property
    def last_hash(self) -> str:
        return self.entries[-1][1] if self.entries else GENESIS

    def lines(self, after: int = 0) -> list[ChainLine]:
        """Return the lines, without the first ``after``."""
        return [json.loads(text) for text, _ in self.entries[after:]]

    def others(self) -> list["HashChain"]:
        """Return the file's other chains that have a line, by name. Raises LedgerDamaged if one of them was altered."""
        query = "SELECT DISTINCT chain FROM lines WHERE chain != ? ORDER BY chain"
        names = [name for (name,) in self.connection.execute(query, (self.name,))]
        return [self.read(self.connection, name) for name in names]

    def stored(self, name: str, digest: str) -> bytes:
        """Return the bytes stored under this name. Raises LedgerDamaged if their hash is not ``digest``."""
        query = "SELECT CAST(bytes AS BLOB) FROM kept WHERE chain = ? AND name = ? ORDER BY part"
        content = b"".join(part for (part,) in self.connection.execute(query, (self.name, name)))
        if sha256(content).hexdigest() != digest:
            raise LedgerDamaged(
                f"{self.name}: the bytes stored for {name!r} were altered, so they are not used; restore the file from a copy"
            )
        return content


class WritableChain(HashChain):
    """A chain that is locked, to append to."""

    def append(self, what: str, **content: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        text = _canonical(
            {"chain": self.name, "number": len(self.entries) + 1, "at": at, "what": what, **content}
        )
        entry = text, _hash(self.last_hash, text)
        self.connection.execute("INSERT INTO lines (chain, line, hash) VALUES (?, ?, ?)", (self.name, *entry))
        self.entries.append(entry)

    def store(self, name: str, content: bytes) -> str:
        """Replace the bytes stored under this name; return their hash, which ``stored`` needs."""
        self.connection.execute("DELETE FROM kept WHERE chain = ? AND name = ?", (self.name, name))
        for part, start in enumerate(range(0, len(content), BLOB_BYTES)):
            row = self.name, name, part, content[start : start + BLOB_BYTES]
            self.connection.execute("INSERT INTO kept VALUES (?, ?, ?, ?)", row)
        return sha256(content).hexdigest()


AnyChain = TypeVar("AnyChain", bound=HashChain)


class HashChainFile:
    """
    A file of chains. Nothing is held open between calls. Raises SiloFailed where the files cannot be read or written, and
    LedgerDamaged where they were altered.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.tip = path, path.with_name(f"{path.name}.tip")

    def exists(self) -> bool:
        """Whether there is, or once was, such a file."""
        return self.path.exists() or self.tip.exists()

    def create(self) -> None:
        """Create an empty file, for its owner alone, if there is none."""
        create_file(self.path)

    @contextmanager
    def write(self, name: str) -> Iterator[WritableChain]:
        """
        Lock the file and yield one chain. What is appended is durable and sealed in the end, or, if that fails, not
        written at all.
        """
        with locked(self.path) as connection:
            chain = self._load(WritableChain(name, connection, self._chain))
            if not chain.entries:
                self._seal(chain)  # from now on, lines without a tip are a sign of tampering
            yield chain
        if len(chain.entries) > self.tips()[name][0]:
            # After the commit: a tip with more lines than its chain would look as if lines had been cut off. Under the lock: another
            # process may have written a newer tip, which must not be replaced by an older one.
            with locked(self.path) as connection:
                self._seal(self._chain(connection, name))

    @contextmanager
    def read(self, name: str) -> Iterator[HashChain]:
        """Yield one chain, to read; an empty one if there is no such file."""
        with reading(self.path) as connection:
            yield self._chain(connection, name)

    @contextmanager
    def read_all(self) -> Iterator[list[HashChain]]:
        """Yield all chains by name, to read; none if there is no such file."""
        with reading(self.path) as connection:
            names = {name for (name,) in connection.execute("SELECT DISTINCT chain FROM lines")}
            if not all(isinstance(name, str) for name in names):
                raise damaged(self.path, "a line belongs to no chain")
            yield [self._chain(connection, name) for name in sorted(names | self.tips().keys())]

    def names(self) -> list[str]:
        """Return the names of the chains that have a line, in order."""
        with reading(self.path) as connection:
            return [name for (name,) in connection.execute("SELECT DISTINCT chain FROM lines ORDER BY chain")]

    def _chain(self, connection: sqlite3.Connection, name: str) -> HashChain:
        return self._load(HashChain(name, connection, self._chain))

    def _load(self, chain: AnyChain) -> AnyChain:
        """Read the lines of a chain and check them against their hashes and the tip."""
        name, last = chain.name, GENESIS
        query = "SELECT line, hash FROM lines WHERE chain = ? ORDER BY number"
        entries = chain.connection.execute(query, (name,)).fetchall()
        # Lines up to a hash that this process has checked need no second look at what they state; every hash is computed below.
        known = _IN_PLACE.longest(entries)
        in_place = known.lines if known and known.value == name else 0
        for number, (text, digest) in enumerate(entries, 1):
            if _hash(last, text) != digest or (number > in_place and _place(text) != (name, number)):
                raise damaged(
                    self.path, f"line {number} of {name} was altered, or the line before it was removed"
                )
            last = digest
        chain.entries.extend(entries)
        _IN_PLACE.keep(entries, name)
        tips = self.tips()
        if chain.entries and name not in tips:
            raise damaged(self.path, f"{self.tip.name} has no entry for {name}")
        count, digest = tips.get(name, (0, GENESIS))
        if not 0 <= count <= len(chain.entries):
            raise damaged(self.path, f"{name} has {len(chain.entries)} lines and had {count}")
        if count and chain.entries[count - 1][1] != digest:
            raise damaged(self.path, f"line {count} of {name} was replaced")
        return chain

    def tips(self) -> dict[str, tuple[int, str]]:
        try:
            content = json.loads(self.tip.read_text())
            return {name: (int(count), str(digest)) for name, (count, digest) in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            raise damaged(self.path, f"{self.tip.name} is damaged") from error

    def _seal(self, chain: HashChain) -> None:
        """Write the chain's tip, under the lock."""
        tips = {**self.tips(), chain.name: (len(chain.entries), chain.last_hash)}
        write_bytes(self.tip, _canonical(tips).encode(), private=True)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _place(text: str) -> tuple[Any, Any] | None:
    """Return the chain and the number that a line states; None for a text that is not a line."""
    try:
        line = json.loads(text)
        return line["chain"], line["number"]
    except (ValueError, KeyError, TypeError):
        return None


def _hash(previous: str, text: str) -> str:
    return sha256(f"{previous}{text}".encode()).hexdigest()
