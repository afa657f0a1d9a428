"""Rows whose cells have a type, of Parquet files and of queries: pandas alone would round large whole numbers in a column with an empty cell."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.source import EXACT
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_parquet(path: str, by_cell: bool) -> "pd.DataFrame":
    """
    Return the rows of a Parquet file; the columns that pandas stored as a named index are columns. Decimals, as databases export them,
    become floats. ``by_cell``: each cell keeps its type, whatever the others of its column are. Raises DataError.
    """
    import pandas as pd
    from pyarrow.parquet import read_schema

    names = read_schema(path).names
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise DataError(f"{path}: two columns are named {twice[0]!r}; rename or remove one of them")
    rows = pd.read_parquet(path, to_pandas_kwargs={"integer_object_nulls": True})
    if not isinstance(rows.index, pd.RangeIndex):
        rows = rows.reset_index([name for name in rows.index.names if name is not None])
    rows = rows.set_axis([str(name) for name in rows.columns], axis=1)
    return rows if by_cell else _with_plain_numbers(rows)


def as_frame(rows: Sequence[Sequence[object]], names: Sequence[str], by_cell: bool) -> "pd.DataFrame":
    """Return rows of cells as a table. ``by_cell``: each cell keeps its type, whatever the others of its column are."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=names, dtype=object)
    return frame if by_cell else _with_plain_numbers(frame).infer_objects()


def _with_plain_numbers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows with columns of decimals, and of whole numbers with empty cells, as numbers."""
    made = {}
    for name in (name for name in frame.columns if frame[name].dtype == object):
        present = frame[name].dropna()
        if len(present) and isinstance(present.iloc[0], Decimal):
            made[name] = frame[name].astype(float)
        elif len(present) and all(type(cell) is int or isinstance(cell, np.integer) for cell in present):
            made[name] = _whole_numbers(frame[name], present)
    return frame.assign(**made)


def _whole_numbers(cells: "pd.Series", present: "pd.Series") -> "pd.Series":
    """Return whole numbers and empty cells: as floats where these hold them exactly, and as whole numbers where they do not."""
    if max(map(abs, map(int, present))) >= EXACT:
        return cells.astype("UInt64" if min(present) >= 0 else "Int64")
    return cells.astype(float if len(present) < len(cells) else int)
