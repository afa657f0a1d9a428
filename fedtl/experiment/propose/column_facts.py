"""What the columns of tables hold, over all files: the facts that guesses about labels and inputs rest on."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.cells import spelled

if TYPE_CHECKING:
    import pandas as pd

CELLS_LOOKED_AT = 500  # of a column of text, in which a format is looked for


class Cells(StrEnum):
    """What the cells of a column hold. OTHER: lists, or values that are neither a number nor a text."""

    NUMBER = "number"
    TEXT = "text"
    DATE = "date"
    OTHER = "other"


@dataclass(frozen=True)
class ColumnFacts:
    """
    One column. ``files``: how many have it, and ``rows`` and ``missing``: in all of them. ``values``: its different values as they are
    written, sorted. ``whole``: whether all are whole numbers. ``counting``: whether each is one more than the last, and
    ``different``: whether no value occurs twice, in each file. ``of_file``: whether each file has one value, and not all the same.
    ``cells``: some, as they are read.
    """

    name: str
    kind: Cells
    files: int
    rows: int
    missing: int
    values: tuple[str, ...]
    whole: bool = False
    counting: bool = False
    different: bool = False
    of_file: bool = False
    low: float = 0.0
    high: float = 0.0
    cells: tuple[object, ...] = ()

    @property
    def present(self) -> int:
        return self.rows - self.missing


def column_facts(frames: Sequence["pd.DataFrame"]) -> list[ColumnFacts]:
    """Return the facts about each column that some table has, in the order of the first table."""
    names = dict.fromkeys(str(name) for frame in frames for name in frame.columns)
    return [_facts(name, [frame[name] for frame in frames if name in frame.columns]) for name in names]


def _facts(name: str, columns: Sequence["pd.Series"]) -> ColumnFacts:
    present = [column.dropna() for column in columns]
    if not all(isinstance(cell, Hashable) for one in present for cell in one.iloc[:1]):
        return ColumnFacts(name, Cells.OTHER, len(columns), sum(map(len, columns)), 0, ())
    different = [list(dict.fromkeys(map(spelled, one.unique()))) for one in present]
    values = sorted({value for own in different for value in own})
    filled = [one for one in present if len(one)]
    kinds = {one.dtype.kind for one in filled}
    numeric = kinds <= set("iufb")
    numbers = (
        np.concatenate([one.to_numpy(np.float64) for one in filled]) if numeric and filled else np.empty(0)
    )
    numbers = numbers[np.isfinite(numbers)]
    return ColumnFacts(
        name,
        kind=Cells.NUMBER if numeric else Cells.DATE if kinds == {"M"} else Cells.TEXT,
        files=len(columns),
        rows=sum(map(len, columns)),
        missing=sum(len(column) - len(own) for column, own in zip(columns, present, strict=True)),
        values=tuple(values),
        whole=numeric and bool((numbers == np.round(numbers)).all()),
        counting=numeric
        and all(len(one) > 2 and bool((np.diff(one.to_numpy(np.float64)) == 1).all()) for one in columns),
        different=all(len(own) == len(one) for own, one in zip(different, present, strict=True))
        and len(values) > 1,
        of_file=len(columns) > 1 and all(len(own) == 1 for own in different) and len(values) > 1,
        low=float(numbers.min()) if len(numbers) else 0.0,
        high=float(numbers.max()) if len(numbers) else 0.0,
        cells=tuple(_some(filled)),
    )


def _some(columns: Sequence["pd.Series"]) -> Iterator[object]:
    """Yield some cells of each column, spread evenly."""
    for one in columns:
        each = max(1, len(one) * len(columns) // CELLS_LOOKED_AT)
        yield from one.iloc[::each].tolist()


def array_facts(name: str, arrays: Sequence[np.ndarray]) -> ColumnFacts:
    """Return the facts about labels [N] of several silos, as those of a column."""
    every = np.concatenate([array.reshape(-1) for array in arrays])
    numeric = every.dtype.kind in "uifb"
    numbers = every.astype(np.float64) if numeric else np.empty(0)
    values = sorted({spelled(value) for value in np.unique(every).tolist()})
    whole = numeric and bool((numbers == np.round(numbers)).all())
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)
    kind = Cells.NUMBER if numeric else Cells.TEXT
    return ColumnFacts(name, kind, len(arrays), len(every), 0, tuple(values), whole, low=low, high=high)
