"""Reads the stored rows of one silo from a DataFrame. Empty cells are missing values."""

import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from fedtl.data.cells import column_inputs, is_number, numbers, numbers_by_cell, spelled, spelled_by_cell
from fedtl.data.codes import codes_as_numbers
from fedtl.data.column_names import columns_there
from fedtl.data.columns import Kind, column_named, columns_of_inputs
from fedtl.data.settings import KINDS, DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.data.word_notes import unread_texts
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS_WITH_A_USE = ("label", "event", "silo_column", "domain_column", "unit_column", "split_column")
REMARKS = "remarks"  # the key of a table's ``attrs``: lines on what was read and may not be wanted
PARTS = ("train", "val", "test")  # the values of a split column


def is_frame(value: Any) -> "TypeGuard[pd.DataFrame]":
    """Return whether this is a DataFrame; pandas is not imported for this."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def texts_of(objects: Array) -> Array:
    """Return objects as text, whole numbers without a point, "" for None and every other missing value."""
    import pandas as pd

    texts = np.array([spelled(cell) for cell in objects.flat], str).reshape(objects.shape)
    return np.where(pd.isna(objects), "", texts)


def rows_of_frame(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Raw:
    """
    Return the rows of one silo. ``where`` names their origin in messages.

    Raises DataError for a column that is missing, that holds text without declared categories, or infinite values.
    """
    check_columns_with_a_use(frame, settings, where)
    columns, x = frame_inputs(frame, settings, where)
    units = units_of(frame, settings, where)
    words = [] if settings.tokenizer else [name for name in settings.text if name in frame.columns]
    unread = (
        *unread_texts({name: frame[name].dropna() for name in words}),
        *codes_as_numbers(frame, columns),
    )
    remarks: tuple[str, ...] = frame.attrs.get(REMARKS, ())
    if not settings.target_domain:
        rows = Part(x, labels_of(frame, settings, where), units)
        if settings.split_column:
            made = _parts_by_column(rows, columns, frame, settings, where)
            return replace(made, unread=unread, remarks=remarks)
        return Raw(rows, columns=columns, unread=unread, remarks=remarks)
    domain = column_of(frame, settings.domain_column, where, "data.domain_column")
    target = (domain.map(str) == settings.target_domain).to_numpy(bool)
    if not target.any() or target.all():
        raise DataError(
            f"{where}: {target.sum()} of {len(target)} rows have {settings.domain_column} = "
            f"{settings.target_domain!r}; a silo needs rows of both domains"
        )
    train = Part(
        x[~target], labels_of(frame[~target], settings, where), None if units is None else units[~target]
    )
    target_x, target_test = x[target], None
    if not column_of(frame, settings.label, where, "data.label")[target].isna().any():
        target_test = Part(target_x, labels_of(frame[target], settings, where))
    return Raw(
        train, target=target_x, target_test=target_test, columns=columns, unread=unread, remarks=remarks
    )


def check_columns_with_a_use(frame: "pd.DataFrame", settings: DataSettings, where: str) -> None:
    """
    Raise DataError for a column of labels, units or another use that is not there. Before anything else: the column that a misspelt name
    was meant for would otherwise be taken for an input. Also for two columns of one name.
    """
    check_distinct_columns(frame, where)
    for name in settings.predicted.columns(settings):
        column_of(frame, name, where, _key_of_label(name, settings))
    for key in COLUMNS_WITH_A_USE:
        if key not in ("label", "event") and (name := getattr(settings, key)):
            column_of(frame, name, where, f"data.{key}")


def check_distinct_columns(frame: "pd.DataFrame", where: str) -> None:
    """Raise DataError for two columns of one name, as a program can make them; files are checked when they are read."""
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise DataError(f"{where}: two columns are named {twice[0]!r}; rename or remove one of them")


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


def used_columns(settings: DataSettings) -> frozenset[str]:
    """Return the names of the columns that have another use than as an input; "" for a use that no column has."""
    sequence = settings.sequence
    steps = frozenset() if sequence is None else frozenset({sequence.id, sequence.time})
    labels = frozenset(settings.predicted.columns(settings))
    return steps | labels | {getattr(settings, key) for key in COLUMNS_WITH_A_USE}


def input_columns(frame: "pd.DataFrame", settings: DataSettings) -> list[str]:
    """Return the columns that become inputs: those of ``data.columns``, or all that have no other use."""
    other_use = {*used_columns(settings), *settings.drop}
    return settings.columns or [str(column) for column in frame.columns if column not in other_use]


def frame_inputs(frame: "pd.DataFrame", settings: DataSettings, where: str) -> tuple[tuple[str, ...], Array]:
    """Return the names of the inputs and their values [N, inputs]: float64, NaN where missing. Raises DataError."""
    for name in settings.drop:
        column_of(frame, name, where, "data.drop")
    names = input_columns(frame, settings)
    if not names:
        raise DataError(f"{where} has no column besides {settings.label!r}; add the columns of the inputs")
    for key in KINDS:
        for name in getattr(settings, key):
            column_of(frame, name, where, f"data.{key}")
    inputs: dict[str, Array] = {}
    for name in names:
        column = column_of(frame, name, where, "data.columns")
        inputs |= column_inputs(column, column_named(str(name), settings), settings, where)
    return tuple(inputs), np.stack(list(inputs.values()), 1)


def known_inputs(
    frame: "pd.DataFrame", settings: DataSettings, columns: Sequence[str], where: str
) -> tuple[Array, list[str]]:
    """
    Return the values [N, inputs] of the inputs ``columns`` of a model, in its order, and the names of columns that it does not
    know and that are not read. Raises DataError for a column that is missing or stands twice.
    """
    check_distinct_columns(frame, where)
    names = columns_of_inputs(columns, settings)
    if lacking := [name for name in names if name not in frame.columns]:
        raise DataError(
            f"{where} has no column {lacking[0]!r}; the model needs {', '.join(names)}; there are "
            f"{', '.join(map(str, frame.columns[:12]))}"
        )
    if not settings.by_record:
        for name in names:
            if column_named(name, settings).kind == Kind.NUMBER:
                _check_numbers(frame[name], where)
    own = settings.model_copy(update={"columns": names, "drop": []})
    made, x = frame_inputs(frame, own, where)
    other_use = used_columns(settings) | {*names, *settings.drop}
    unread = [str(column) for column in frame.columns if column not in other_use]
    return x[:, [made.index(name) for name in columns]], unread


def _check_numbers(cells: "pd.Series", where: str) -> None:
    """Raise DataError for text in a column of a model's numbers, whose kind no setting can change any more."""
    import pandas as pd

    present = cells.dropna()
    if len(present) and not pd.api.types.is_numeric_dtype(cells):
        texts = [cell for cell in present if not is_number(cell)] or list(present)
        raise DataError(
            f"{where}: {cells.name} holds {spelled(texts[0])!r} in {len(texts)} of {len(present)} rows, but the model's input is a number; "
            "write plain numbers, and leave a cell empty where none is known"
        )


def column_of(frame: "pd.DataFrame", name: str, where: str, key: str) -> "pd.Series":
    """Return the column; ``key`` is the setting that names it. Raises DataError."""
    if name not in frame.columns:
        raise DataError(f"{key}: {where} has no column {name!r}; it has {columns_there(name, frame.columns)}")
    return frame[name]


def _key_of_label(name: str, settings: DataSettings) -> str:
    """Return the setting that names a column of labels."""
    if name in settings.classes:
        return "data.classes"
    return "data.event" if name and name == settings.event else "data.label"


def _label_numbers(cells: "pd.Series", settings: DataSettings, where: str) -> Array:
    """Return one of several columns of labels [N]. Raises DataError for text, for which an input would need categories."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(cells) and len(present := cells.dropna()):
        task = settings.predicted
        raise DataError(
            f"{where}: {cells.name} holds text ({spelled(present.iloc[0])!r}), but data.task = {settings.task!r} needs {task.needs}; "
            "write numbers"
        )
    return numbers(cells, where)


def labels_of(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array:
    """
    Return the labels [N]: numbers as they are, anything else as text; [N, K] of numbers where the task has K columns, NaN in empty
    cells. Raises DataError.
    """
    import pandas as pd

    if settings.predicted.label_shape(settings):
        parts = []
        for name in settings.predicted.columns(settings):
            one = column_of(frame, name, where, _key_of_label(name, settings))
            parts.append(
                numbers_by_cell(one, settings) if settings.by_record else _label_numbers(one, settings, where)
            )
        return np.stack(parts, 1)
    column = column_of(frame, settings.label, where, "data.label")
    if settings.by_record:
        return _labels_by_cell(column, settings)
    if settings.missing_labels == "refuse":
        _check_no_missing(column, where, ', or set data.missing_labels = "inputs"')
    exact = pd.api.types.is_extension_array_dtype(column) and settings.predicted.has_classes
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column) or exact:
        if settings.positive_above is not None:
            raise DataError(f"{where}: {settings.label} holds text; data.positive_above needs numbers")
        _check_texts(column, where)
        return np.array(["" if pd.isna(cell) else spelled(cell) for cell in column], str)
    values: Array = column.to_numpy()
    if settings.positive_above is None:
        return values
    above = (values.astype(np.float64) > settings.positive_above).astype(np.int64)
    return np.where(column.isna(), "", above.astype(str)) if column.isna().any() else above


def _check_texts(labels: "pd.Series", where: str) -> None:
    """Raise DataError where a cell holds neither a text nor a number, such as a list of a Parquet file does."""
    for cell in labels.dropna():
        if isinstance(cell, bytes) or not isinstance(cell, Hashable):
            raise DataError(
                f"{where}: {labels.name} holds a value of type {type(cell).__name__}; write one text or number a cell"
            )


def _labels_by_cell(column: "pd.Series", settings: DataSettings) -> Array:
    """Return each label by itself; NaN or "" for a cell that is empty, or not a number where numbers are needed."""
    if not settings.predicted.has_classes:
        return numbers_by_cell(column, settings)
    if settings.positive_above is not None:
        values = numbers_by_cell(column, settings)
        return np.where(np.isnan(values), "", (values > settings.positive_above).astype(int).astype(str))
    missing = column.isna()
    return np.array(
        ["" if empty else spelled_by_cell(cell) for cell, empty in zip(column, missing, strict=True)], str
    )


def units_of(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array | None:
    """Return whose row each is, as text [N]. Raises DataError for a row without a unit."""
    if not settings.unit_column:
        return None
    column = column_of(frame, settings.unit_column, where, "data.unit_column")
    _check_no_missing(column, where)
    return np.array([spelled(cell) for cell in column], str)


def _check_no_missing(column: "pd.Series", where: str, else_do: str = "") -> None:
    if missing := int(column.isna().sum()):
        raise DataError(
            f"{where}: {missing} of {len(column)} rows have no {column.name!r}; remove them{else_do}"
        )
