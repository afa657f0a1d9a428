"""Texts in arrays as a program writes them: bytes, and labels that were missing values before they became texts."""

import numpy as np

from fedtl.data.csv_files import MISSING_WORDS
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError


def decoded(array: Array) -> Array:
    """Return an array of bytes as texts; any other one as it is. Bytes that are not UTF-8 are written as ``\\xe9``, each for itself."""
    return np.char.decode(array, "utf-8", "backslashreplace") if array.dtype.kind == "S" else array


def labels_as_written(y: Array, settings: DataSettings, where: str) -> Array:
    """
    Return labels [N] with "" for each word such as "nan", which numpy makes of a missing value, that ``data.classes`` does not
    declare. Raises DataError for one where rows without labels are not expected.
    """
    if y.dtype.kind != "U" or not settings.predicted.has_classes:
        return y
    words = np.isin(y, sorted(MISSING_WORDS - set(settings.classes)))
    if not words.any():
        return y
    if not (settings.by_record or settings.missing_labels == "inputs" or settings.unlabelled):
        raise DataError(
            f"{where}: {int(words.sum())} of {len(y)} rows have the label {str(y[words][0])!r}, which can mean that the label is missing; "
            "list all labels in data.classes to use it as a label, or remove these rows"
        )
    return np.where(words, "", y)
