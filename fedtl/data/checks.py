"""Checks whether a silo's rows can be used. Every error names the silo, and the row or the number."""

from collections.abc import Sequence

import numpy as np

from fedtl._util.counted import counted
from fedtl.data.cells import is_number
from fedtl.data.hidden import used_fraction, uses_missing
from fedtl.data.labels import label_texts, merge_labels, without_label
from fedtl.data.pixels import is_pixels
from fedtl.data.settings import DataSettings
from fedtl.data.source import MAX_FLOAT32, Array, Raw, finite_numbers, parts_of, rounded_whole_number
from fedtl.errors import DataError

MIN_TRAINING_ROWS = 4


def check_rows(raw: Raw, settings: DataSettings, silo: str, missing_values: bool) -> Raw:
    """
    Return ``raw`` if it can be used. ``missing_values``: whether a NaN in a table stands for a missing value.

    With ``settings.by_record`` values and labels are not checked: a row that cannot be used must not stop the others, or
    a refusal would tell what it holds. The labels of an unlabelled silo are not looked at. Raises DataError.
    """
    if not len(raw.train.y):
        raise DataError(
            f"silo {silo} is empty: it has no rows; add some, or leave it out with data.silos or data.silos_except"
        )
    for name, part in parts_of(raw).items():
        if not len(part.y):
            raise DataError(
                f"silo {silo} has no {name} rows; remove this part, so that it is split off from the training rows, or add rows"
            )
        _check_inputs(part.x, raw.train.x, settings, f"silo {silo}: {name}", missing_values)
        if part.y.dtype.kind not in "uifbU":
            raise DataError(
                f"silo {silo}: {name} labels are of type {part.y.dtype}; fedtl reads numbers and texts: save the labels as one of them, "
                "such as y.astype(str)"
            )
        if not settings.by_record and used_fraction(settings, silo):
            check_labels(_given(part.y, name, settings, silo), settings, silo)
    if raw.target is not None:
        if not len(raw.target):
            raise DataError(
                f"silo {silo} has no rows of the second domain; add some, or leave it out with data.silos or data.silos_except"
            )
        _check_inputs(raw.target, raw.train.x, settings, f"silo {silo}: target", missing_values)
    if len(raw.train.y) < MIN_TRAINING_ROWS:
        rule = (
            ""
            if settings.by_record
            else f", or set data.min_rows = {MIN_TRAINING_ROWS} to leave out all such silos"
        )
        raise DataError(
            f"silo {silo}: {counted(len(raw.train.y), 'training row')}; a silo needs at least {MIN_TRAINING_ROWS}; list it in "
            f"data.silos_except{rule}"
        )
    return raw


def _given(y: Array, part: str, settings: DataSettings, silo: str) -> Array:
    """Return the labels that are checked: with ``data.missing_labels = "inputs"``, those of rows that have one. Raises DataError."""
    if not uses_missing(settings, silo):
        return y
    known = y[~without_label(y)]
    if part == "train" and len(known) < MIN_TRAINING_ROWS:
        raise DataError(
            f"silo {silo}: {len(known)} of {len(y)} rows have a label; a silo needs at least {MIN_TRAINING_ROWS}; list it in "
            "data.unlabelled"
        )
    return known


def check_classes(raw: Raw, silo: str, classes: Sequence[str], trained: frozenset[str]) -> None:
    """
    Check the labels of a silo after the split. ``trained``: the labels in the training rows of the silos that train
    together; a model cannot learn any other. Raises DataError.
    """
    own = set(label_texts(raw.train.y))
    if undeclared := sorted(own - set(classes)):
        raise DataError(
            f"silo {silo}: label {undeclared[0]!r} is not in the declared classes; add it to data.classes"
        )
    if len(every := own | trained) < 2:
        raise DataError(
            f"silo {silo}: all {len(raw.train.y)} training rows have the same label {''.join(every)!r}; "
            "list the silo in data.silos_except, or set data.min_labels = 2 to leave out all such silos"
        )
    for part in (raw.val, raw.test, raw.target_test):
        if part is not None and (unknown := set(label_texts(part.y)) - trained):
            known = ", ".join(map(repr, merge_labels([sorted(trained)])[:12]))
            raise DataError(
                f"silo {silo}: label {sorted(unknown)[0]!r} is out of range: the training rows have only {known}; "
                "correct the label, or remove its rows"
            )


def _check_inputs(x: Array, train: Array, settings: DataSettings, where: str, missing_values: bool) -> None:
    """Check the inputs of one part of a silo; ``train``: the inputs of its training rows."""
    if x.dtype.kind not in "uif":
        raise DataError(
            f"{where} inputs are of type {x.dtype}; fedtl reads uint8 pixels and numbers: save {_as_numbers(x)}"
        )
    if 0 in x.shape[1:]:
        raise DataError(
            f"{where} inputs have shape {x.shape[1:]}, so a row holds no number; give each row at least one"
        )
    if (shape := _common_shape(x, settings)) != (expected := _common_shape(train, settings)):
        raise DataError(
            f"{where} inputs have shape {shape}, but training inputs {expected}; all rows of a silo need one shape"
        )
    if is_pixels(x) != is_pixels(train):
        raise DataError(f"{where} images are {x.dtype}, training images are {train.dtype}; use one type")
    if not settings.by_record and (whole := rounded_whole_number(x)) is not None:
        raise DataError(
            f"{where} inputs hold {whole}, which cannot be stored exactly in 64 bits; leave out what names the rows, or subtract a constant"
        )
    if not (
        settings.by_record or x.dtype.kind != "f" or settings.stream
    ):  # a streamed file is checked when it is read
        _check_finite(x, settings, where, missing_values)


def _check_finite(x: Array, settings: DataSettings, where: str, missing_values: bool) -> None:
    """Raise DataError for a number that is not finite, or too large for float32."""
    invalid = ~(np.abs(x) <= MAX_FLOAT32)
    series = settings.sequence is not None
    if series or (missing_values and x.ndim == 2):
        invalid &= ~np.isnan(x)
    if not invalid.any():
        return
    if x.ndim > 2:
        what = "series" if series else "images"
        raise DataError(
            f"{where} {what} hold {int(invalid.sum())} values that are not finite; correct or remove them"
        )
    row, column = np.argwhere(invalid)[0]
    odd = x[row, column]
    if np.isfinite(odd):
        raise DataError(
            f"{where} row {row}, column {column} is {odd:g}, beyond {MAX_FLOAT32:.2g}; divide the column by a constant"
        )
    raise DataError(
        f"{where} row {row}, column {column} is {odd}, not a finite number; "
        'missing values are possible in tables: data.source = "table", or a DataFrame in Python'
    )


def _as_numbers(x: Array) -> str:
    """Return what makes numbers of inputs of another type."""
    match x.dtype.kind:
        case "b":
            return "x.astype('float32')"
        case "c":
            return "their real and imaginary parts, or abs(x)"
        case "M" | "m":
            return "their distance from a date in days: (x - start) / numpy.timedelta64(1, 'D')"
        case "V":
            return "the fields as columns: numpy.lib.recfunctions.structured_to_unstructured(x)"
        case _:
            return 'codes of the texts, or use data.source = "table" with data.categories'


def _common_shape(x: Array, settings: DataSettings) -> tuple[int, ...]:
    """Return the part of a row's shape in which all rows of a silo must agree: what the settings do not change anyway."""
    if x.ndim == 2 or settings.sequence is not None:
        return x.shape[1:]
    if settings.kind == "volumes":
        return x.shape[1:] if settings.size == "native" else ()
    height_width = x.shape[1:3] if settings.size == "native" else ()
    return height_width + ((x.shape[3:] or (1,)) if settings.channels == "native" else ())


def check_labels(y: Array, settings: DataSettings, silo: str) -> None:
    """Check that labels are classes, or the numbers that the task needs. Raises DataError."""
    task = settings.predicted
    if not task.has_classes:
        if (whole := rounded_whole_number(y)) is not None:
            raise DataError(
                f"silo {silo}: the label {whole} cannot be stored exactly in 64 bits; subtract a constant from the labels"
            )
        usable = task.valid(finite_numbers(y))
        if not usable.all():
            texts = [text for text in y.ravel().tolist() if not is_number(text)] or y.tolist()
            odd = task.odd(y[~usable]) if y.dtype.kind in "uif" else texts[0]
            raise DataError(
                f"silo {silo}: {task.name} needs {task.needs} as labels, not {odd!r}; correct or remove such rows"
            )
    elif y.dtype.kind == "f" and np.isnan(y).any():
        raise DataError(
            f'silo {silo}: {int(np.isnan(y).sum())} of {len(y)} rows have no label (nan); remove them, or set data.missing_labels = "inputs"'
        )
    elif y.dtype.kind == "f" and not (np.isfinite(y) & (y == y.round())).all():
        raise DataError(
            f'silo {silo}: label {_first_odd_label(y)} is not a class; for values set data.task = "regression"'
        )
    elif y.dtype.kind in "if" and (below := _undeclared_below_zero(y, settings)):
        raise DataError(
            f"silo {silo}: {sum(label_texts(y).count(label) for label in below)} rows have the label {below[0]}, which can mean "
            "that the label is missing; list all labels in data.classes to use it as a class, or remove these rows"
        )
    elif y.dtype.kind not in "if" and (missing := int(without_label(y).sum())):
        raise DataError(
            f'silo {silo}: {missing} of {len(y)} rows have no label; remove them, or set data.missing_labels = "inputs"'
        )


def _undeclared_below_zero(y: Array, settings: DataSettings) -> list[str]:
    """Return the labels below zero that may stand for none: not declared ones, and not -1 where the only other label is 1."""
    if not (y < 0).any() or np.isin(y, (-1, 1)).all():
        return []
    return sorted(set(label_texts(y[y < 0])) - set(settings.classes), key=int)


def _first_odd_label(y: Array) -> str:
    """Return the first label that is not finite, or else the first one that is not a whole number."""
    if y.dtype.kind != "f":
        return repr(y.tolist()[0])
    odd = y[~np.isfinite(y)] if not np.isfinite(y).all() else y[y != y.round()]
    return str(odd[0])
