"""
Which rows does a budget cover, and how many of them are also in another dataset? Keyed hashes of rows, without their order.

The hash of a row is blake2b of its inputs with the silo's key, 8 bytes. Without the key a reader cannot test which rows they
are. It excludes labels and units, because rows with other labels belong to the same people. The fingerprint includes
them, and changes with any of them. Hashes with different keys cannot be compared, and such datasets are refused.

Recognised: any order of rows, removed or added rows, repeated rows, numbers of another type (float64, float32, integers), the
same images with or without a channel axis; for a table also other orders of columns and constant columns, where its values
distinguish rows without their order. Not recognised: changed values (scaled, rounded, with noise), removed or added columns
that differ between rows (also where a plan reads other columns, or one became the label or the unit), and resized images. For
these, fedtl depends on what the steward declares.

Of more than 131,072 different rows a sample is kept, the rows with the smallest hashes, which is the same choice in every set.
A share s estimated from m rows has a standard error of sqrt(s (1 - s) / m); it is not estimated from fewer than 60.
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
MAX_HASHES = (
    1 << 17
)  # distinct hashes that are kept of a dataset: of more rows, those with the smallest hashes
MAX_HASH = (1 << 64) - 1
MIN_SAMPLE = 60  # rows; with fewer, 0 shared rows would not rule out a share of 5 % (at 95 %)
MAX_SHARED = 0.05  # the share of rows that may also be in another dataset
MIN_DISTINCT = 0.9  # the share of different rows that must still differ without the order of their values
ROWS_AT_ONCE, NUMBERS_AT_ONCE = 1024, 1 << 23


@dataclass(frozen=True)
class Part:
    """Rows of one split: inputs [N, ...], labels [N], and each row's unit [N], None if there are no units."""

    x: Array
    y: Array
    units: Array | None = None


@dataclass(frozen=True)
class Hashes:
    """Distinct hashes (uint64, ascending) and how often each occurs in the set (uint32): all of them up to ``limit``."""

    values: bytes = b""
    counts: bytes = b""
    limit: int = MAX_HASH

    @classmethod
    def of(cls, values: Array, counts: Array, limit: int = MAX_HASH) -> "Hashes":
        """``values``: distinct and ascending. Keeps the ``MAX_HASHES`` smallest."""
        if len(values) > MAX_HASHES:
            values, counts = values[:MAX_HASHES], counts[:MAX_HASHES]
            limit = int(values[-1])
        return cls(values.astype("<u8").tobytes(), counts.astype("<u4").tobytes(), limit)

    def upto(self, limit: int) -> tuple[Array, Array]:
        values, counts = np.frombuffer(self.values, "<u8"), np.frombuffer(self.counts, "<u4").astype(np.int64)
        kept = values <= np.uint64(limit)
        return values[kept], counts[kept]

    def union(self, other: "Hashes") -> "Hashes":
        """Unite two sets; a row counts as often as in the set that has it most often."""
        limit = min(self.limit, other.limit)
        (ours, our_counts), (theirs, their_counts) = self.upto(limit), other.upto(limit)
        values, where = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.maximum.at(counts, where, np.concatenate([our_counts, their_counts]))
        return Hashes.of(values, counts, limit)


@dataclass(frozen=True)
class RowSet:
    """
    The rows of a dataset as hashes. ``fingerprint``: of inputs, labels and units; ``key``: a hash of the silo's key, because
    hashes with different keys cannot be compared. ``stored``: hashes of the inputs as they are stored; ``ordered``: of a
    table's inputs without constant columns and with each row's values sorted; empty if that does not distinguish rows.
    """

    fingerprint: str
    key: str
    count: int
    stored: Hashes
    ordered: Hashes = Hashes()

    def union(self, other: "RowSet") -> "RowSet":
        """Return all rows of both, with this one's ``fingerprint`` and ``count``."""
        stored, ordered = self.stored.union(other.stored), self.ordered.union(other.ordered)
        return RowSet(self.fingerprint, self.key, self.count, stored, ordered)

    def dumped(self) -> bytes:
        lists = [self.stored, self.ordered]
        about = {"fingerprint": self.fingerprint, "key": self.key, "count": self.count}
        about |= {"lists": [[len(hashes.values) // 8, hashes.limit] for hashes in lists]}
        return (
            json.dumps(about).encode() + b"\n" + b"".join(hashes.values + hashes.counts for hashes in lists)
        )

    @classmethod
    def loaded(cls, content: bytes) -> "RowSet":
        """Read what ``dumped`` wrote. Raises LedgerDamaged for anything else."""
        try:
            header, _, rest = content.partition(b"\n")
            about, lists = json.loads(header), []
            for size, limit in about["lists"]:
                lists.append(Hashes(rest[: 8 * size], rest[8 * size : 12 * size], limit))
                rest = rest[12 * size :]
            return cls(about["fingerprint"], about["key"], about["count"], *lists)
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerDamaged(
                "the row hashes in the ledger cannot be read; restore the ledger from a copy"
            ) from error


@dataclass(frozen=True)
class SharedRows:
    """
    What two datasets have in common. ``share``: the largest share of either dataset's rows, whether a repeated row counts
    once or each time; None: the sample is too small. ``rows``: how many rows of the first dataset.
    """

    share: float | None
    rows: int

    @property
    def refused(self) -> bool:
        """
        A row in two datasets has two budgets. A share of up to 5 % may be chance (blank images, rows of few values) or
        people who are in both, which the steward decides; beyond that, it is one dataset that was divided differently.
        """
        return self.share is None or self.share > MAX_SHARED


def row_set(parts: Sequence[Part], key: bytes, columns: Sequence[str] = ()) -> RowSet:
    """Hash the rows of all parts. ``columns``: the names of a table's inputs, whose order then does not matter."""
    order = np.argsort(columns) if len(columns) else None
    parts = [
        Part(part.x if order is None else part.x[:, order], part.y, part.units)
        for part in parts
        if len(part.y)
    ]
    hashes = [[_hash(key, b"row", row) for row in _canonical(part.x)] for part in parts]
    whole = [
        _hash(key, b"labelled", row + json.dumps([label, unit]).encode(), 16)
        for part, rows in zip(parts, hashes, strict=True)
        for row, label, unit in zip(rows, _texts(part.y), _units(part), strict=True)
    ]
    stored = _distinct([row for rows in hashes for row in rows])
    ordered = _distinct([_hash(key, b"ordered", row) for row in _canonical(_without_order(parts))])
    distinct = len(ordered[0]) >= MIN_DISTINCT * len(stored[0])
    fingerprint = _hash(key, b"all", b"".join(sorted(whole)), 32).hex()
    return RowSet(
        fingerprint,
        _hash(key, b"key", b"").hex(),
        len(whole),
        Hashes.of(*stored),
        Hashes.of(*ordered) if distinct else Hashes(),
    )


def shared_rows(ours: RowSet, theirs: RowSet) -> SharedRows:
    """Compare two datasets whose hashes have the same key."""
    shares = [_shares(ours.stored, theirs.stored), _shares(ours.ordered, theirs.ordered)]
    if any(pair is None for pair in shares):
        return SharedRows(None, 0)
    share, own = (max(values) for values in zip(*(pair for pair in shares if pair), strict=True))
    return SharedRows(share, round(own * ours.count))


def changed_rows(before: RowSet, now: RowSet) -> tuple[int, int]:
    """Return how many rows are new and how many are gone; an estimate for more than ``MAX_HASHES`` rows."""
    limit = min(before.stored.limit, now.stored.limit)
    (old, old_counts), (new, new_counts) = before.stored.upto(limit), now.stored.upto(limit)
    values = np.union1d(old, new)
    delta = np.zeros(len(values), np.int64)
    delta[np.searchsorted(values, new)] += new_counts
    delta[np.searchsorted(values, old)] -= old_counts
    scale = now.count / max(1, int(new_counts.sum())) if limit < MAX_HASH else 1.0
    return round(int(delta[delta > 0].sum()) * scale), round(int(-delta[delta < 0].sum()) * scale)


def _shares(ours: Hashes, theirs: Hashes) -> tuple[float, float] | None:
    """Return the largest share, and the share of our rows; None if too few rows of a sample can be compared."""
    if not ours.values or not theirs.values:
        return 0.0, 0.0
    limit = min(ours.limit, theirs.limit)
    (a, in_a), (b, in_b) = ours.upto(limit), theirs.upto(limit)
    if any(len(part) < min(MIN_SAMPLE, len(of.values) // 8) for part, of in ((a, ours), (b, theirs))):
        return None
    a_too, b_too = np.isin(a, b), np.isin(b, a)
    own = float(in_a[a_too].sum() / in_a.sum())
    return max(own, float(a_too.mean()), float(in_b[b_too].sum() / in_b.sum()), float(b_too.mean())), own


def _hash(key: bytes, purpose: bytes, content: bytes, size: int = 8) -> bytes:
    return blake2b(content, key=key[:64], digest_size=size, person=purpose).digest()


def _distinct(hashes: Sequence[bytes]) -> tuple[Array, Array]:
    """Return the different hashes, ascending, and how often each occurs."""
    values, counts = np.unique(np.frombuffer(b"".join(hashes), "<u8"), return_counts=True)
    return values, counts


def _canonical(x: Array) -> Iterator[bytes]:
    """
    Yield each row's numbers in one form for all types: bytes if all are integers from 0 to 255, float32 otherwise. Each row
    is converted by itself, so that other rows change nothing.
    """
    numbers = math.prod(x.shape[1:])
    at_once = min(ROWS_AT_ONCE, max(1, NUMBERS_AT_ONCE // max(1, numbers)))
    for start in range(0, len(x), at_once):
        block = np.asarray(x[start : start + at_once])  # streamed images are read here
        block = block.reshape(len(block), numbers)
        if block.dtype == np.uint8:
            yield from (b"b" + row.tobytes() for row in block)
            continue
        with np.errstate(over="ignore"):
            values = block.astype("<f4") + np.float32(0.0)  # -0.0 is 0.0
        values[np.isnan(values)] = np.nan
        whole = ((values >= 0) & (values <= 255) & (values == np.floor(values))).all(1)
        for row, small in zip(values, whole, strict=True):
            yield b"b" + row.astype(np.uint8).tobytes() if small else b"f" + row.tobytes()


def _without_order(parts: Sequence[Part]) -> Array:
    """Return a table's columns that differ between rows, sorted within each row; no rows if it is not a table."""
    if not parts or parts[0].x.ndim != 2:
        return np.empty((0, 1))
    x = np.concatenate([part.x for part in parts]).astype("<f4")
    same = (x == x[:1]) | (np.isnan(x) & np.isnan(x[:1]))
    return np.sort(x[:, ~same.all(0)], axis=1)


def _units(part: Part) -> Sequence[str]:
    return [""] * len(part.y) if part.units is None else _texts(part.units)


def _texts(values: Array) -> list[str]:
    """
    Return labels or units as text: 3.0, 3 and "3" are equal, and so are a float64 and its float32. A label of several numbers
    [N, K] is the texts of all, with commas between them; of a mask [N, H, W] it is a hash of its numbers.
    """
    if values.ndim > 2:
        return [blake2b(row, digest_size=16).hexdigest() for row in _canonical(values)]
    if values.ndim > 1:
        return [",".join(row) for row in zip(*map(_texts, values.T), strict=True)]
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    return [
        str(int(value)) if value.is_integer() else repr(float(np.float32(value))) for value in values.tolist()
    ]
