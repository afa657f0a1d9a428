"""
Target encoding: in place of a value of many, the mean label of the silo's own training rows with this value, drawn towards the
mean of all of them the fewer they are (Micci-Barreca, 2001).

Training rows are cross-fitted: the mean of each comes from rows of other folds, so that no row's label is in its own input;
otherwise a column that names the rows would seem to tell their labels. It is learned from private labels, so ``[privacy]``
refuses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtl._util.randomness import address
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError

FOLDS = 5
MISSING = -1.0  # the code of an empty cell; codes of values are 0 or above


@dataclass(frozen=True)
class TargetTable:
    """
    ``column``: the number of the input. ``codes``: of the values in training rows (``data.hashing``), ascending, and ``values`` what
    becomes of each. ``other``: what becomes of a value that no training row has.
    """

    column: int
    codes: tuple[float, ...]
    values: tuple[float, ...]
    other: float

    def encoded(self, codes: Array) -> Array:
        """Return what becomes of codes [N], of which NaN is an empty cell."""
        codes, known = _with_missing(codes), np.array(self.codes)
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        return np.where(known[places] == codes, np.array(self.values)[places], self.other)


def encoded_rows(x: Array, tables: Sequence[TargetTable]) -> Array:
    """Return rows [N, columns], float64, with the columns of ``tables`` encoded."""
    if not tables:
        return x
    made = x.astype(np.float64)
    for table in tables:
        made[:, table.column] = table.encoded(made[:, table.column])
    return made


def fit_tables(
    x: Array, y: Array, columns: Sequence[str], settings: DataSettings, seed: int, silo: str
) -> tuple[tuple[TargetTable, ...], Array]:
    """
    Return the tables of a silo, and its training rows ``x`` [N, columns] with cross-fitted values. ``y`` [N]: their labels as
    numbers: of two classes 0 and 1, or values. The rows of a fold depend on ``seed`` and ``silo``. Raises DataError for more than
    two classes.
    """
    if settings.predicted.has_classes and y.max(initial=0) > 1:
        raise DataError(
            f"silo {silo}: data.target_encoded needs a label of two classes or of numbers, and there are {int(y.max()) + 1} "
            "classes; use data.hashed"
        )
    from sklearn.model_selection import KFold  # takes a second to import
    from sklearn.preprocessing import TargetEncoder

    made, tables = x.astype(np.float64), []
    for name in settings.target_encoded:
        column = list(columns).index(name)
        codes = _with_missing(made[:, column])[:, None]
        folds = KFold(
            min(FOLDS, len(y)), shuffle=True, random_state=address("target", seed, silo, name) % 2**32
        )
        for others, rows in folds.split(codes):
            encoder = TargetEncoder(target_type="continuous").fit(codes[others], y[others])
            made[rows, column] = encoder.transform(codes[rows])[:, 0]
        whole = TargetEncoder(target_type="continuous").fit(codes, y)
        known, values = whole.categories_[0].tolist(), whole.encodings_[0].tolist()
        tables.append(TargetTable(column, tuple(known), tuple(values), float(whole.target_mean_)))
    return tuple(tables), made


def _with_missing(codes: Array) -> Array:
    return np.where(np.isnan(codes), MISSING, codes)
