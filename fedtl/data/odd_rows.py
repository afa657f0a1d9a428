"""Rows of a table that are no records: sums or means of all others, and rows without a value."""

import numpy as np

from fedtl.data.source import Array

EXACTLY = 1e-9  # relative
NEARLY = 1e-3  # relative: means are written with few digits
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
        if _alike(values, sums, EXACTLY * sizes) or _alike(values, sums / counts, NEARLY * sizes / counts):
            return number
    return None


def _alike(values: Array, expected: Array, allowed: Array) -> bool:
    return bool((np.abs(values - expected) <= allowed).all())


def blank_rows(x: Array) -> int:
    """Return how many rows, or series, have no value at all."""
    return int(np.isnan(x.reshape(len(x), -1)).all(1).sum())
