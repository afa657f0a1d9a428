"""
The labels of one silo of a table, where those of some silo are not used (``data.unlabelled``).

Labels that are not used must decide nothing: not how the labels of other silos in the same file are read (one text among them would
make texts of all, one empty cell floats of whole numbers), nor whether the silo's own rows can be read.
"""

from typing import TYPE_CHECKING

from fedtl.data.cells import spelled_by_cell
from fedtl.data.settings import DataSettings
from fedtl.data.unlabelled import is_unlabelled

if TYPE_CHECKING:
    import pandas as pd


def with_labels_alone(
    rows: "pd.DataFrame", settings: DataSettings, name: str, typed: bool
) -> tuple["pd.DataFrame", DataSettings]:
    """
    Return one silo's rows with labels as they would be if the file had no other silo, and the settings by which to read them: at a
    silo whose labels are not used, a row may have none. ``name``: of the silo in the source. ``typed``: the file says which cells are
    numbers, as a CSV does not.
    """
    if settings.by_record or not settings.unlabelled or settings.label not in rows:
        return rows, settings
    unused = is_unlabelled(settings, name)
    read = _of_no_use if unused else _alone
    labels = read(_with_points(rows[settings.label], settings), settings, typed)
    if unused:
        settings = settings.model_copy(update={"missing_labels": "inputs"})
    return rows.assign(**{settings.label: labels}), settings


def _with_points(labels: "pd.Series", settings: DataSettings) -> "pd.Series":
    import pandas as pd

    if settings.decimal == "." or not pd.api.types.is_string_dtype(labels):
        return labels
    return labels.str.replace(settings.decimal, ".", regex=False)


def _of_no_use(labels: "pd.Series", settings: DataSettings, typed: bool) -> "pd.Series":
    """Return each label by itself, because only the silo's test labels are used, and the others must not change them."""
    import pandas as pd

    if settings.predicted.has_classes and settings.positive_above is None:
        return labels.map(spelled_by_cell, na_action="ignore")
    return pd.to_numeric(labels, errors="coerce").astype(float)


def _alone(labels: "pd.Series", settings: DataSettings, typed: bool) -> "pd.Series":
    import pandas as pd

    numbers = labels.infer_objects() if typed else pd.to_numeric(labels, errors="coerce")
    if not typed and (numbers.isna() & labels.notna()).any():
        return labels
    if pd.api.types.is_float_dtype(numbers) and (numbers == numbers.round()).all():
        return numbers.astype("int64")
    return numbers
