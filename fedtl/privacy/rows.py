"""
Which rows is a budget about, and how many of them stand in another data set? Keyed hashes of rows, without their order.

A row's hash is blake2b of its inputs under the silo's key, 8 bytes, so that whoever lacks the key cannot try out which
rows they are. Labels and units are not in it, because rows with other labels are the same people's. They are in the
fingerprint, which changes with any of them. Hashes under two keys cannot be compared, and such data sets are refused.

Seen: any order of rows, rows left out or added, repeated rows, numbers of another type (float64, float32, whole numbers), the
same images with or without an axis of channels; for a table also other orders of columns and constant columns, where its
values tell rows apart without their order. Not seen: values that were changed (scaled, rounded, with noise), columns left out
or added that differ between rows (also where a plan reads other columns, or one has become the label or the unit), and
resized images. For these there is only the steward's word.

Of more than 131,072 different rows a sample is kept, the rows of the smallest hashes, which is the same choice in every set; a
share s estimated from m rows has a standard error of sqrt(s (1 - s) / m), and from fewer than 60 none is estimated.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from fedtl.errors import LedgerDamaged

Array = np.ndarray[Any, Any]
MOST = 1 << 17  # distinct hashes that are kept of a data set: of more rows, those with the smallest hashes
LIMIT = (1 << 64) - 1
LEAST = 60  # rows of a sample; with fewer, 0 shared rows would not rule out a share of 5 % (at 95 %)
SHARE = 0.05
TELLS = 0.9  # of the rows that differ, how many must still differ when the order of their values is left out
BLOCK = 1024  # rows at once


@dataclass(frozen=True)
class Part:
    """Rows of one split: inputs [N, ...], labels [N], and whose each row is [N], None where nobody says."""

    x: Array
    y: Array
    units: Array | None = None


@dataclass(frozen=True)
class Hashes:
    """Distinct hashes (uint64, ascending) and how often each stands in the set (uint32): all of those up to ``limit``."""

    values: bytes = b""
    counts: bytes = b""
    limit: int = LIMIT

    @classmethod
    def of(cls, values: Array, counts: Array, limit: int = LIMIT) -> "Hashes":
        """``values``: distinct and ascending. Keeps the ``MOST`` smallest."""
        if len(values) > MOST:
            values, counts, limit = values[:MOST], counts[:MOST], int(values[MOST - 1])
        return cls(values.astype("<u8").tobytes(), counts.astype("<u4").tobytes(), limit)

    def upto(self, limit: int) -> tuple[Array, Array]:
        values, counts = np.frombuffer(self.values, "<u8"), np.frombuffer(self.counts, "<u4").astype(np.int64)
        kept = values <= np.uint64(limit)
        return values[kept], counts[kept]

    def union(self, other: "Hashes") -> "Hashes":
        """Of two sets; a row counts as often as it stands in the set that has it most often."""
        limit = min(self.limit, other.limit)
        (ours, our_counts), (theirs, their_counts) = self.upto(limit), other.upto(limit)
        values, where = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.maximum.at(counts, where, np.concatenate([our_counts, their_counts]))
        return Hashes.of(values, counts, limit)


@dataclass(frozen=True)
class RowSet:
    """
    A data set's rows, in hashes. ``fingerprint``: of inputs, labels and units; ``key``: of the silo's key, for hashes under
    two keys cannot be compared. ``stored``: hashes of the inputs as they stand; ``ordered``: of a table's inputs without
    constant columns and with the values of each row sorted; empty where that does not tell rows apart.
    """

    fingerprint: str
    key: str
    count: int
    stored: Hashes
    ordered: Hashes = Hashes()

    def union(self, other: "RowSet") -> "RowSet":
        """All rows that either has; ``fingerprint`` and ``count`` stay this one's."""
        stored, ordered = self.stored.union(other.stored), self.ordered.union(other.ordered)
        return RowSet(self.fingerprint, self.key, self.count, stored, ordered)

    def dumped(self) -> bytes:
        lists = [self.stored, self.ordered]
        about = {"fingerprint": self.fingerprint, "key": self.key, "count": self.count}
        about |= {"lists": [[len(its.values) // 8, its.limit] for its in lists]}
        return json.dumps(about).encode() + b"\n" + b"".join(its.values + its.counts for its in lists)

    @classmethod
    def loaded(cls, content: bytes) -> "RowSet":
        """Raises LedgerDamaged for anything but what ``dumped`` wrote."""
        try:
            header, _, rest = content.partition(b"\n")
            about, lists = json.loads(header), []
            for size, limit in about["lists"]:
                lists.append(Hashes(rest[: 8 * size], rest[8 * size : 12 * size], limit))
                rest = rest[12 * size :]
            return cls(about["fingerprint"], about["key"], about["count"], *lists)
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerDamaged(
                "the hashes of a data set's rows cannot be read; put the ledger back"
            ) from error


@dataclass(frozen=True)
class Shared:
    """
    What two data sets have in common. ``share``: of the rows of one of them, whichever gives more, with repeated rows
    counted once or each, whichever gives more; None: the sample is too small to tell. ``rows``: how many of the first set's.
    """

    share: float | None
    rows: int

    @property
    def refused(self) -> bool:
        """
        Rows that stand in two data sets have two budgets, so none should. Up to a share of 5 % may be chance (blank images,
        rows of few values) or people who stand in both, and is the steward's to say; beyond it, it is one data set cut anew.
        """
        return self.share is None or self.share > SHARE


def row_set(parts: Sequence[Part], key: bytes, columns: Sequence[str] = ()) -> RowSet:
    """``columns``: the names of a table's inputs, whose order then does not matter."""
    order = np.argsort(columns) if len(columns) else None
    parts = [
        Part(its.x if order is None else its.x[:, order], its.y, its.units) for its in parts if len(its.y)
    ]
    hashes = [[_hash(key, b"row", row) for row in _canonical(its.x)] for its in parts]
    whole = [
        _hash(key, b"labelled", row + json.dumps([label, unit]).encode(), 16)
        for its, rows in zip(parts, hashes, strict=True)
        for row, label, unit in zip(rows, _texts(its.y), _units(its), strict=True)
    ]
    stored = _distinct([row for rows in hashes for row in rows])
    ordered = _distinct([_hash(key, b"ordered", row) for row in _canonical(_without_order(parts))])
    tells = len(ordered[0]) >= TELLS * len(stored[0])
    fingerprint = _hash(key, b"all", b"".join(sorted(whole)), 32).hex()
    return RowSet(
        fingerprint,
        _hash(key, b"key", b"").hex(),
        len(whole),
        Hashes.of(*stored),
        Hashes.of(*ordered) if tells else Hashes(),
    )


def shared(ours: RowSet, theirs: RowSet) -> Shared:
    found = [_shared(ours.stored, theirs.stored), _shared(ours.ordered, theirs.ordered)]
    if any(its is None for its in found):
        return Shared(None, 0)
    share, own = (max(values) for values in zip(*(its for its in found if its), strict=True))
    return Shared(share, round(own * ours.count))


def changes(before: RowSet, now: RowSet) -> tuple[int, int]:
    """How many rows are new and how many are gone; of more than ``MOST`` rows, about how many."""
    limit = min(before.stored.limit, now.stored.limit)
    (old, old_counts), (new, new_counts) = before.stored.upto(limit), now.stored.upto(limit)
    values = np.union1d(old, new)
    delta = np.zeros(len(values), np.int64)
    delta[np.searchsorted(values, new)] += new_counts
    delta[np.searchsorted(values, old)] -= old_counts
    scale = now.count / max(1, int(new_counts.sum())) if limit < LIMIT else 1.0
    return round(int(delta[delta > 0].sum()) * scale), round(int(-delta[delta < 0].sum()) * scale)


def _shared(ours: Hashes, theirs: Hashes) -> tuple[float, float] | None:
    """The largest share, and the share of our rows; None where too few are left of a sample to tell."""
    if not ours.values or not theirs.values:
        return 0.0, 0.0
    limit = min(ours.limit, theirs.limit)
    (a, in_a), (b, in_b) = ours.upto(limit), theirs.upto(limit)
    if any(len(part) < min(LEAST, len(its.values) // 8) for part, its in ((a, ours), (b, theirs))):
        return None
    a_too, b_too = np.isin(a, b), np.isin(b, a)
    own = float(in_a[a_too].sum() / in_a.sum())
    return max(own, float(a_too.mean()), float(in_b[b_too].sum() / in_b.sum()), float(b_too.mean())), own


def _hash(key: bytes, purpose: bytes, content: bytes, size: int = 8) -> bytes:
    return blake2b(content, key=key[:64], digest_size=size, person=purpose).digest()


def _distinct(hashes: Sequence[bytes]) -> tuple[Array, Array]:
    """Ascending, and how often each is there."""
    values, counts = np.unique(np.frombuffer(b"".join(hashes), "<u8"), return_counts=True)
    return values, counts


def _canonical(x: Array) -> Iterator[bytes]:
    """
    Each row's numbers, in one way whatever their type: bytes where all are whole numbers from 0 to 255, float32 otherwise.
    A row decides for itself, so that the rows beside it change nothing.
    """
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        if block.dtype == np.uint8:
            yield from (b"b" + row.tobytes() for row in block)
            continue
        with np.errstate(over="ignore"):
            numbers = block.astype("<f4") + np.float32(0.0)  # -0.0 is 0.0
        numbers[np.isnan(numbers)] = np.nan
        whole = ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all(1)
        for row, small in zip(numbers, whole, strict=True):
            yield b"b" + row.astype(np.uint8).tobytes() if small else b"f" + row.tobytes()


def _without_order(parts: Sequence[Part]) -> Array:
    """A table's columns that differ between rows, sorted within each row; no rows for anything else."""
    if not parts or parts[0].x.ndim != 2:
        return np.empty((0, 1))
    x = np.concatenate([its.x for its in parts]).astype("<f4")
    same = (x == x[:1]) | (np.isnan(x) & np.isnan(x[:1]))
    return np.sort(x[:, ~same.all(0)], axis=1)


def _units(part: Part) -> Sequence[str]:
    return [""] * len(part.y) if part.units is None else _texts(part.units)


def _texts(values: Array) -> list[str]:
    """Labels and units as text: 3.0, 3 and "3" are one, and so are a float64 and its float32."""
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    return [
        str(int(value)) if value.is_integer() else repr(float(np.float32(value))) for value in values.tolist()
    ]
