"""Rows of a table that are no records: sums or means of all others, and rows without a value."""

from collections.abc import Iterator, Sequence

import numpy as np

from fedtl.data.source import Array

EXACTLY = 1e-9  # relative
NEARLY = 2e-3  # of the standard deviation: means are written with few digits
FAR = 1e4  # times; values of a lognormal distribution of deviation 2 lie 50 times as far
FEWEST_ROWS = 20
OTHER = 15.0  # times, from which on the unit is in question, as between silos (``experiment.data_notes``)
FEWEST = 2  # columns in which a row has to be the sum or the mean; in one it can be so by chance


def summary_row(x: Array) -> int | None:
    """
    Return the number of the first or the last row, counted from 1, where its values are the sums or the means of all other rows in all
    columns in which it has one, and these vary; else None. ``x`` [N, columns]: the inputs, and the label where it is a number.
    """
    for own, others, number in ((x[-1], x[:-1], len(x)), (x[0], x[1:], 1)) if len(x) > 2 * FEWEST else ():
        known = np.flatnonzero(~np.isnan(own) & ~np.isnan(others).all(0))
        varying = known[
            np.nanmax(others[:, known], 0, initial=-np.inf) > np.nanmin(others[:, known], 0, initial=np.inf)
        ]
        if len(varying) < FEWEST:
            continue
        values, rest = own[varying], others[:, varying]
        sums, sizes, counts = np.nansum(rest, 0), np.nansum(np.abs(rest), 0), (~np.isnan(rest)).sum(0)
        if _alike(values, sums, EXACTLY * sizes) or _alike(
            values, sums / counts, NEARLY * np.nanstd(rest, 0)
        ):
            return number
    return None


def _alike(values: Array, expected: Array, allowed: Array) -> bool:
    return bool((np.abs(values - expected) <= allowed).all())


def far_values(x: Array, names: Sequence[str]) -> Iterator[tuple[str, float, int]]:
    """Yield each column with values FAR times as far from the median as nine tenths of all are, with the farthest, and how many are so far."""
    for name, column in zip(names, x.T, strict=True):
        present = column[~np.isnan(column)]
        if len(present) < FEWEST_ROWS:
            continue
        distance = np.abs(present - np.median(present))
        usual = np.quantile(distance, 0.9)
        if usual > 0 and (far := int((distance > FAR * usual).sum())):
            yield name, float(present[distance.argmax()]), far


def other_scale(train: Array, other: Array, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield each column whose middle four fifths lie OTHER times as far apart, or as near, in ``other`` as in the training rows, and how many times."""
    for name, one, two in zip(names, train.T, other.T, strict=True):
        if np.isnan(one).all() or np.isnan(two).all():
            continue
        here, there = (float(np.ptp(np.nanquantile(values, (0.1, 0.9)))) for values in (one, two))
        if here > 0 and there > 0 and not 1 / OTHER < there / here < OTHER:
            yield name, there / here


def blank_rows(x: Array) -> int:
    """Return how many rows, or series, have no value at all."""
    return int(np.isnan(x.reshape(len(x), -1)).all(1).sum())
