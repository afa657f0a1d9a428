"""
Reads the stored rows of one silo from a DataFrame. Empty cells are missing values.

Columns of text need their categories declared (``categories = { sex = ["f", "m"] }``), because the silos must agree on
them without looking at each other's rows; each becomes one column of 0 and 1 per category.
"""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from fedtl.data.csv_files import has_decimal_comma, is_number
from fedtl.data.settings import DataSettings
from fedtl.data.source import MAX_FLOAT32, Array, Part, Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 20  # that a message proposes for a column of text
COLUMNS_WITH_A_USE = ("label", "event", "silo_column", "domain_column", "unit_column", "split_column")
PARTS = ("train", "val", "test")  # the values of a split column


def is_frame(value: Any) -> "TypeGuard[pd.DataFrame]":
    """Return whether this is a DataFrame; pandas is not imported for this."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def texts_of(objects: Array) -> Array:
    """Return objects as text, whole numbers without a point, "" for None and every other missing value."""
    import pandas as pd

    texts = np.array([_spelled(cell) for cell in objects.flat], str).reshape(objects.shape)
    return np.where(pd.isna(objects), "", texts)


def rows_of_frame(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Raw:
    """
    Return the rows of one silo. ``where`` names their origin in messages.

    Raises DataError for a column that is missing, that holds text without declared categories, or infinite values.
    """
    columns, x = frame_inputs(frame, settings, where)
    units = _units(frame, settings, where)
    if not settings.target_domain:
        rows = Part(x, _labels(frame, settings, where), units)
        if settings.split_column:
            return _parts_by_column(rows, columns, frame, settings, where)
        return Raw(rows, columns=columns)
    domain = column_of(frame, settings.domain_column, where, "data.domain_column")
    target = (domain.map(str) == settings.target_domain).to_numpy(bool)
    if not target.any() or target.all():
        raise DataError(
            f"{where}: {target.sum()} of {len(target)} rows have {settings.domain_column} = "
            f"{settings.target_domain!r}; a silo needs rows of both domains"
        )
    train = Part(
        x[~target], _labels(frame[~target], settings, where), None if units is None else units[~target]
    )
    target_x, target_test = x[target], None
    if not column_of(frame, settings.label, where, "data.label")[target].isna().any():
        target_test = Part(target_x, _labels(frame[target], settings, where))
    return Raw(train, target=target_x, target_test=target_test, columns=columns)


def _parts_by_column(
    rows: Part, columns: tuple[str, ...], frame: "pd.DataFrame", settings: DataSettings, where: str
) -> Raw:
    """
    Return each row in the part that its cell of ``settings.split_column`` names. Without a row of "val" this part is split
    off later. Raises DataError for any other value, for a unit in two parts, and without training or test rows.
    """
    column = column_of(frame, settings.split_column, where, "data.split_column")
    cells = texts_of(column.to_numpy(object))
    if unknown := sorted(set(cells.tolist()) - set(PARTS)):
        count = int((cells == unknown[0]).sum())
        raise DataError(
            f"{where}: {count} of {len(cells)} rows have {column.name} = {unknown[0]!r}; data.split_column needs "
            "train, val or test in each row"
        )
    parts = {name: rows.take(np.flatnonzero(cells == name)) for name in PARTS}
    for name in ("train", "test"):
        if not len(parts[name].y):
            raise DataError(f"{where}: no row has {column.name} = {name!r}; data.split_column needs some")
    if rows.units is not None:
        first: dict[str, str] = {}
        for unit, cell in zip(rows.units.tolist(), cells.tolist(), strict=True):
            if first.setdefault(unit, cell) != cell:
                raise DataError(
                    f"{where}: {settings.unit_column} {unit!r} has rows of {column.name} = {first[unit]!r} and {cell!r}; "
                    "put all of them into one part"
                )
    return Raw(parts["train"], parts["val"] if len(parts["val"].y) else None, parts["test"], columns=columns)


def columns_with_a_use(settings: DataSettings) -> set[str]:
    """Return the columns that are no inputs, because they have another use."""
    return {getattr(settings, key) for key in COLUMNS_WITH_A_USE} | set(settings.predicted.columns(settings))


def input_columns(frame: "pd.DataFrame", settings: DataSettings) -> list[str]:
    """Return the columns that become inputs: those of ``data.columns``, or all that have no other use."""
    other_use = columns_with_a_use(settings) | set(settings.drop)
    return settings.columns or [str(column) for column in frame.columns if column not in other_use]


def frame_inputs(frame: "pd.DataFrame", settings: DataSettings, where: str) -> tuple[tuple[str, ...], Array]:
    """Return the names of the inputs and their values [N, inputs]: float64, NaN where missing. Raises DataError."""
    for name in settings.drop:
        column_of(frame, name, where, "data.drop")
    names = input_columns(frame, settings)
    if not names:
        raise DataError(f"{where} has no column besides {settings.label!r}")
    for name in settings.categories:
        column_of(frame, name, where, "data.categories")
    inputs: dict[str, Array] = {}
    for name in names:
        column = column_of(frame, name, where, "data.columns")
        if name in settings.categories:
            inputs |= _indicators(column, settings.categories[name], settings, where)
        elif settings.by_record:
            inputs[str(name)] = _numbers_by_cell(column, settings)
        else:
            inputs[str(name)] = _numbers(column, where)
    return tuple(inputs), np.stack(list(inputs.values()), 1)


def known_inputs(
    frame: "pd.DataFrame", settings: DataSettings, columns: Sequence[str], where: str
) -> tuple[Array, list[str]]:
    """
    Return the values [N, inputs] of the inputs ``columns`` of a model, in its order, and the names of columns that it does not
    know and that are not read. Raises DataError for a column that is missing.
    """
    names = list(dict.fromkeys(_column_of_input(name, settings) for name in columns))
    if lacking := [name for name in names if name not in frame.columns]:
        raise DataError(
            f"{where} has no column {lacking[0]!r}; the model needs {', '.join(names)}, and it has "
            f"{', '.join(map(str, frame.columns[:12]))}"
        )
    own = settings.model_copy(update={"columns": names, "drop": []})
    made, x = frame_inputs(frame, own, where)
    other_use = columns_with_a_use(settings) | {*names, *settings.drop}
    unread = [str(column) for column in frame.columns if column not in other_use]
    return x[:, [made.index(name) for name in columns]], unread


def _column_of_input(name: str, settings: DataSettings) -> str:
    """Return the column that an input is made of: "sex" for "sex=f"."""
    column, _, value = name.partition("=")
    while column not in settings.categories and "=" in value:  # a name may have this mark itself
        more, _, value = value.partition("=")
        column = f"{column}={more}"
    return column if value in settings.categories.get(column, ()) else name


def column_of(frame: "pd.DataFrame", name: str, where: str, key: str) -> "pd.Series":
    """Return the column; ``key`` is the setting that names it. Raises DataError."""
    if name not in frame.columns:
        raise DataError(
            f"{key}: {where} has no column {name!r}; it has {', '.join(map(str, frame.columns[:12]))}"
        )
    return frame[name]


def _indicators(
    column: "pd.Series", categories: Sequence[str], settings: DataSettings, where: str
) -> dict[str, Array]:
    """
    Return one column of 0 and 1 for each category. A missing cell belongs to none of them; with ``by_record`` neither does
    a cell of another value, which is refused otherwise. Nothing is fitted, so scikit-learn's OneHotEncoder would replace only
    the comparison of texts, at the price of importing it to read a table.
    """
    spell = _spelled_by_cell if settings.by_record else _spelled
    missing = column.isna()
    cells = [None if empty else spell(cell) for cell, empty in zip(column, missing, strict=True)]
    if not settings.by_record and (unknown := {cell for cell in cells if cell is not None} - set(categories)):
        raise DataError(
            f"{where}: {column.name} holds {sorted(unknown)[0]!r}, not in data.categories.{column.name} = {categories}"
        )
    return {
        f"{column.name}={category}": np.array([cell == spell(category) for cell in cells], np.float64)
        for category in categories
    }


def _numbers(column: "pd.Series", where: str) -> Array:
    """Return a column of numbers [N], NaN where missing. Raises DataError for text and for infinite values."""
    import pandas as pd

    present = column.dropna()
    if not len(present):
        return np.full(len(column), np.nan)
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(f"{where}: {_text_problem(present)}")
    values = np.asarray(column.to_numpy(np.float64, na_value=np.nan))
    if count := int((np.abs(values) > MAX_FLOAT32).sum()):
        raise DataError(f"{where}: {column.name} holds {count} infinite values; leave such cells empty")
    return values


def _text_problem(present: "pd.Series") -> str:
    """Return what is wrong with a column that should hold numbers, and what to do."""
    texts = [cell for cell in present if not is_number(cell)]
    categories = sorted(map(_spelled, present.unique()))
    if texts and all(has_decimal_comma(str(cell)) for cell in texts):
        advice = 'if the comma is a decimal mark, set data.decimal = ","'
    elif len(texts) < len(present) / 2:
        advice = "leave such cells empty: empty cells are missing values"
    elif len(categories) > MAX_CATEGORIES:
        advice = f"with {len(categories)} different values; list it in data.drop, or the columns to use in data.columns"
    else:
        advice = f"declare data.categories.{present.name} = {categories}, or list the columns to use in data.columns"
    example = _spelled([*texts, present.iloc[0]][0])
    return f"{present.name} holds text ({example!r}) in {len(texts)} of {len(present)} rows; {advice}"


def _numbers_by_cell(column: "pd.Series", settings: DataSettings) -> Array:
    """Return each cell as a number, NaN if it is not one that float32 can hold; no cell changes how another is read."""
    import pandas as pd

    if settings.decimal == "," and not pd.api.types.is_numeric_dtype(column):
        column = column.str.replace(".", "?").str.replace(",", ".")  # a point is not part of such a number
    values: Array = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.abs(values) <= MAX_FLOAT32, values, np.nan)


def _labels(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array:
    """
    Return the labels [N]: numbers as they are, anything else as text; [N, K] of numbers where the task has K columns, NaN in empty
    cells. Raises DataError.
    """
    import pandas as pd

    if settings.predicted.label_shape(settings):
        parts = []
        for name in settings.predicted.columns(settings):
            one = column_of(frame, name, where, "data.classes" if name in settings.classes else "data.label")
            parts.append(_numbers_by_cell(one, settings) if settings.by_record else _numbers(one, where))
        return np.stack(parts, 1)
    column = column_of(frame, settings.label, where, "data.label")
    if settings.by_record:
        return _labels_by_cell(column, settings)
    _check_no_missing(column, where)
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        if settings.positive_above is not None:
            raise DataError(f"{where}: {settings.label} holds text; data.positive_above needs numbers")
        return np.array([_spelled(cell) for cell in column], str)
    values: Array = column.to_numpy()
    if settings.positive_above is None:
        return values
    return (values.astype(np.float64) > settings.positive_above).astype(np.int64)


def _labels_by_cell(column: "pd.Series", settings: DataSettings) -> Array:
    """Return each label by itself; NaN or "" for a cell that is empty, or not a number where numbers are needed."""
    if not settings.predicted.has_classes:
        return _numbers_by_cell(column, settings)
    if settings.positive_above is not None:
        values = _numbers_by_cell(column, settings)
        return np.where(np.isnan(values), "", (values > settings.positive_above).astype(int).astype(str))
    missing = column.isna()
    return np.array(
        ["" if empty else _spelled_by_cell(cell) for cell, empty in zip(column, missing, strict=True)], str
    )


def _units(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array | None:
    """Return whose row each is, as text [N]. Raises DataError for a row without a unit."""
    if not settings.unit_column:
        return None
    column = column_of(frame, settings.unit_column, where, "data.unit_column")
    _check_no_missing(column, where)
    return np.array([_spelled(cell) for cell in column], str)


def _check_no_missing(column: "pd.Series", where: str) -> None:
    if missing := int(column.isna().sum()):
        raise DataError(f"{where}: {missing} of {len(column)} rows have no {column.name!r}; remove them")


def _spelled(cell: object) -> str:
    """Return a cell as it is in the file: pandas reads whole numbers as floats if other cells of a column are empty."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _spelled_by_cell(cell: object) -> str:
    """Return a cell as text, where 3.0 and 3 are the same value, whatever the other cells of its column are."""
    text = _spelled(cell)
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 2**53 else text
