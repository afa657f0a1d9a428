"""
Rows that are nearly copies, such as one table written with fewer digits, or one picture saved anew as JPEG: found by hashes of rounded
numbers and of the coarse brightness of images. Like those of ``data.facts`` they are keyed and kept in the memory of one process.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fedtl.data.pixels import is_pixels
from fedtl.data.source import Array, finite_numbers

DIGITS = (2, 4)  # significant ones of a number, from coarse to fine
STEPS = (16, 64)  # of brightness
CELLS = 4  # along each of the last axes of an image
# A rounding that makes more than this share of a silo's different rows alike is not used. Of a finer one, about twice this share of two
# silos' rows are alike by chance, and a few rows of a small silo; that is below NEAR_SHARE and NEAR_ROWS, from which near copies are named.
MERGED = 0.01
NEAR_SHARE, NEAR_ROWS = 0.1, 10


@dataclass(frozen=True)
class NearRows:
    """``levels``: the different hashes of a silo's training rows [n] after each rounding; None where it makes different rows alike."""

    levels: tuple[Array | None, ...] = (None,) * len(DIGITS)

    def contain(self, hashes: Sequence[Array]) -> Array:
        """Return for each of other rows whether it is nearly one of these. ``hashes``: of ``near_hashes``, [levels, N]."""
        for own, others in zip(self.levels, hashes, strict=True):
            if own is not None:
                return np.isin(others, own)
        return np.zeros(len(hashes[0]), bool)


def are_many(count: int, rows: int) -> bool:
    """Return whether ``count`` of ``rows`` is more than chance makes alike."""
    return count >= NEAR_ROWS and count > NEAR_SHARE * rows


def near_rows(hashes: Sequence[Array], different: int) -> NearRows:
    """Return the hashes of a silo's rows. ``hashes``: [levels, N]; ``different``: how many of the rows are different."""
    if not hashes:
        return NearRows()
    levels = [np.unique(own) for own in hashes]
    return NearRows(tuple(own if len(own) >= (1 - MERGED) * different else None for own in levels))


def near_hashes(x: Array, kind: str, hashed: Callable[[Array], Sequence[int]]) -> list[Array]:
    """
    Return hashes [N] of rows for each rounding. ``kind``: "images" or "volumes", of inputs with sides; ``hashed``: of an array, by row.
    """
    if is_pixels(x):
        brightness = _cells(x, kind) / (np.iinfo(x.dtype).max + 1)
        return [np.array(hashed(np.floor(brightness * steps)), np.int64) for steps in STEPS]
    numbers = _cells(x, kind) if x.ndim > 2 else finite_numbers(x)
    return [np.array(hashed(_rounded(numbers, digits)), np.int64) for digits in DIGITS]


def near_pairs(
    silos: Mapping[str, NearRows], same: Mapping[tuple[str, str], int]
) -> Iterator[tuple[str, str, int]]:
    """
    Yield each pair of silos in which many rows of one are nearly rows of the other, and how many. ``same``: by pair, how many are equal;
    they do not count.
    """
    named: set[tuple[str, str]] = set()
    for level in range(len(DIGITS)):
        rows = {name: own for name, silo in silos.items() if (own := silo.levels[level]) is not None}
        counts = _shared(rows)
        for pair in combinations(rows, 2):
            if pair in named:  # by a coarser rounding
                continue
            named.add(pair)
            count = counts[pair] - same.get(pair, 0)
            if are_many(count, min(len(rows[name]) for name in pair)):
                yield *pair, count


def _shared(rows: Mapping[str, Array]) -> Counter[tuple[str, str]]:
    """Return by pair of silos how many hashes both have."""
    counts = Counter[tuple[str, str]]()
    if not rows:
        return counts
    names = list(rows)
    owner = np.repeat(np.arange(len(names)), [len(own) for own in rows.values()])
    every = np.concatenate(list(rows.values()))
    order = np.argsort(every, kind="stable")  # so the owners of one hash are in the order of the silos
    groups = np.split(owner[order], np.flatnonzero(np.diff(every[order])) + 1)
    for group in groups:
        if len(group) > 1:
            counts.update(combinations([names[number] for number in group.tolist()], 2))
    return counts


def _rounded(numbers: Array, digits: int) -> Array:
    """Return the numbers, rounded to this number of significant ``digits``; NaN stays."""
    size = np.abs(numbers)
    exponent = np.floor(
        np.log10(np.where(size > 0, size, 1.0), where=~np.isnan(size), out=np.zeros_like(size))
    )
    power = digits - 1 - exponent
    up, down = 10.0 ** np.clip(power, 0, 300), 10.0 ** np.clip(-power, 0, 300)
    return np.asarray(np.round(numbers * up / down) * down / up + 0.0)  # no -0.0


def _cells(x: Array, kind: str) -> Array:
    """
    Return the mean of an image in each of CELLS x CELLS cells, over its channels or, of volumes, its depth [N, 16]; of series in each of
    CELLS intervals of time, by channel.
    """
    if kind == "series":
        return _means(x, 1).reshape(len(x), -1)
    rows, columns = (2, 3) if kind == "volumes" else (1, 2)
    means = _means(_means(x, rows), columns)
    if means.ndim == 4:
        means = means.mean(1 if kind == "volumes" else 3)
    return means.reshape(len(x), -1)


def _means(x: Array, axis: int) -> Array:
    """Return the means in at most CELLS parts of an axis, of nearly equal length."""
    length = x.shape[axis]
    ends = np.linspace(0, length, min(CELLS, length) + 1).astype(int)
    sums = np.add.reduceat(x, ends[:-1], axis, dtype=np.float64)
    return np.asarray(sums / np.diff(ends).reshape(-1, *[1] * (x.ndim - axis - 1)))
