"""
Durable lines in hash chains, and bytes kept beside them: one SQLite file, and its ``<path>.tip``. Must not know what
the lines are about.

A process may be killed at any moment and others may write at the same time. A line's hash is sha256 of the hash of the
line before and its own canonical JSON, so that a line altered or taken out breaks its chain; the tip file has each
chain's length and last hash, so that lines cut off at the end are missed too. What cannot be seen: both files put back
to an older copy, or written anew by somebody who knows how; and the one line that a killed process had written and not
yet sealed, if it is cut off before the book is next opened. Against the first, note the last hash down elsewhere.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedtl._util.files import sync_folder
from fedtl.errors import LedgerDamaged, SiloFailed

PATIENCE = 60.0  # seconds for others to finish their lines
GENESIS = "0" * 64  # what the first line of a chain follows
PART = 1 << 26  # bytes; SQLite holds no blob above 1e9
TABLES = (
    "CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY, chain TEXT, line TEXT, hash TEXT)",
    "CREATE INDEX IF NOT EXISTS of_chain ON lines (chain, number)",
    "CREATE TABLE IF NOT EXISTS kept (chain TEXT, name TEXT, part INTEGER, bytes BLOB, PRIMARY KEY (chain, name, part))",
)
ChainLine = dict[str, Any]
_creating = threading.Lock()


@dataclass
class HashChain:
    """The lines of one name, oldest first, while the book is locked."""

    name: str
    connection: sqlite3.Connection
    read: Callable[[sqlite3.Connection, str], "HashChain"] = field(
        repr=False
    )  # another chain of the same book
    entries: list[tuple[str, str]] = field(default_factory=list)  # canonical JSON and hash

    @property
    def last(self) -> str:
        return self.entries[-1][1] if self.entries else GENESIS

    def lines(self) -> list[ChainLine]:
        return [json.loads(text) for text, _ in self.entries]

    def append(self, what: str, **content: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        text = _canonical(
            {"chain": self.name, "number": len(self.entries) + 1, "at": at, "what": what, **content}
        )
        entry = text, _hash(self.last, text)
        self.connection.execute("INSERT INTO lines (chain, line, hash) VALUES (?, ?, ?)", (self.name, *entry))
        self.entries.append(entry)

    def keep(self, name: str, content: bytes) -> str:
        """In place of what was kept under this name before; returns what ``kept`` will ask for."""
        self.connection.execute("DELETE FROM kept WHERE chain = ? AND name = ?", (self.name, name))
        for part, start in enumerate(range(0, len(content), PART)):
            row = self.name, name, part, content[start : start + PART]
            self.connection.execute("INSERT INTO kept VALUES (?, ?, ?, ?)", row)
        return sha256(content).hexdigest()

    def others(self) -> list["HashChain"]:
        """The book's other chains that have a line, by name. Raises LedgerDamaged where one of them was altered."""
        query = "SELECT DISTINCT chain FROM lines WHERE chain != ? ORDER BY chain"
        names = [name for (name,) in self.connection.execute(query, (self.name,))]
        return [self.read(self.connection, name) for name in names]

    def kept(self, name: str, digest: str) -> bytes:
        """Raises LedgerDamaged where it is not what was kept."""
        query = "SELECT CAST(bytes AS BLOB) FROM kept WHERE chain = ? AND name = ? ORDER BY part"
        content = b"".join(part for (part,) in self.connection.execute(query, (self.name, name)))
        if sha256(content).hexdigest() != digest:
            raise LedgerDamaged(f"{self.name}: the bytes kept for {name!r} were altered; they are not sent")
        return content


class HashChainFile:
    """Raises SiloFailed where the files cannot be written, and LedgerDamaged where they are not as they were left."""

    def __init__(self, path: Path) -> None:
        self.path, self.tip = path, self.tip_of(path)
        _create(path)

    @staticmethod
    def tip_of(path: Path) -> Path:
        return path.with_name(f"{path.name}.tip")

    @contextmanager
    def open(self, name: str) -> Iterator[HashChain]:
        """Alone with a chain; what is appended by the end is durable and sealed, and none of it where that fails."""
        with _locked(self.path) as connection:
            chain = self._chain(connection, name)
            if not chain.entries:
                self._seal(chain)  # a chain that has no tip later on was tampered with
            yield chain
        if len(chain.entries) > self._tips()[name][0]:
            # After the commit, for a tip ahead of its chain would look like a cut; locked, for it only goes forward.
            with _locked(self.path) as connection:
                self._seal(self._chain(connection, name))

    def names(self) -> list[str]:
        """Of the chains that have a line, in order."""
        with _locked(self.path) as connection:
            return [name for (name,) in connection.execute("SELECT DISTINCT chain FROM lines ORDER BY chain")]

    @contextmanager
    def all(self) -> Iterator[list[HashChain]]:
        """Alone with all chains, by name, to read."""
        with _locked(self.path) as connection:
            found = {name for (name,) in connection.execute("SELECT DISTINCT chain FROM lines")}
            yield [self._chain(connection, name) for name in sorted(found | self._tips().keys())]

    def _chain(self, connection: sqlite3.Connection, name: str) -> HashChain:
        chain = HashChain(name, connection, self._chain)
        query = "SELECT line, hash FROM lines WHERE chain = ? ORDER BY number"
        for number, (text, digest) in enumerate(connection.execute(query, (name,)), 1):
            if _hash(chain.last, text) != digest or json.loads(text)["chain"] != name:
                raise _damaged(self.path, f"line {number} of {name} was altered, or one before it is gone")
            chain.entries.append((text, digest))
        tips = self._tips()
        if chain.entries and name not in tips:
            raise _damaged(self.path, f"{self.tip.name} does not know {name}")
        count, digest = tips.get(name, (0, GENESIS))
        if count > len(chain.entries):
            raise _damaged(self.path, f"{name} has {len(chain.entries)} lines and had {count}")
        if count and chain.entries[count - 1][1] != digest:
            raise _damaged(self.path, f"line {count} of {name} is another than it was")
        return chain

    def _tips(self) -> dict[str, tuple[int, str]]:
        try:
            content = json.loads(self.tip.read_text())
            return {name: (int(count), str(digest)) for name, (count, digest) in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            raise _damaged(self.path, f"{self.tip.name} cannot be read") from error

    def _seal(self, chain: HashChain) -> None:
        """Under the lock, so that the new file's name is nobody else's."""
        new = self.tip.with_name(f"{self.tip.name}.new")
        with os.fdopen(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(_canonical({**self._tips(), chain.name: (len(chain.entries), chain.last)}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.tip)
        sync_folder(self.tip.parent)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(previous: str, text: str) -> str:
    return sha256(f"{previous}{text}".encode()).hexdigest()


def _damaged(path: Path, what: str) -> LedgerDamaged:
    return LedgerDamaged(f"{path}: {what}; put it and its .tip back as they were, from one copy")


@contextmanager
def _locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that nobody else is in: all of it is on the disk afterwards, or nothing."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, PATIENCE, isolation_level=None, uri=True)
        try:
            # FULL does not sync the folder once the journal is gone, and after a power cut it could be back: EXTRA.
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("BEGIN IMMEDIATE")
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                for table in TABLES:
                    connection.execute(table)
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()
    except (
        sqlite3.OperationalError,
        OSError,
    ) as error:  # locked for too long, a full disk, no right to write
        raise SiloFailed(
            f"{path}: the ledger cannot be written ({error}); see to it and ask again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error


def _create(path: Path) -> None:
    """Empty and for its owner alone, before SQLite sees it; its journal inherits that."""
    with _creating:  # one thread at a time: to close a file gives up what other threads have locked of it
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
                sync_folder(path.parent)
        except OSError as error:
            raise SiloFailed(f"{path}: the ledger cannot be made ({error.strerror})") from error
