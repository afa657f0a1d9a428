"""The labels of a silo: as text, as a list that the silos agree on, and as the class numbers that a model is trained on."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedtl._util.labels import NO_LABEL, is_known
from fedtl.data.dataset import Dataset
from fedtl.data.pixels import resized_masks
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw, finite_numbers, parts_of

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


def label_texts(y: Array) -> list[str]:
    """Return each label as text. 3.0 and 3 are the same label; a float that is not a whole number keeps its digits."""
    if y.dtype.kind == "f":
        return [str(int(value)) if value.is_integer() else str(value) for value in y.astype(float).tolist()]
    texts: list[str] = y.astype(str).tolist()
    return texts


def without_label(y: Array) -> Array:
    """Return which rows have no label at all [N]: an empty text or one of blanks, or a number that is not finite."""
    return ~np.isfinite(y) if y.dtype.kind == "f" else np.char.strip(y.astype(str)) == ""


def different_labels(y: Array) -> frozenset[str]:
    """Return every label that at least one row has."""
    return frozenset(label_texts(y[~without_label(y)]))


def labels_in(raw: Raw) -> frozenset[str]:
    """Return every label that at least one row of the silo has."""
    return frozenset().union(*(different_labels(part.y) for part in parts_of(raw).values()))


def merge_labels(label_sets: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return every label of several sets once, sorted: by value if all are whole numbers, otherwise as text."""
    union = {label for labels in label_sets for label in labels}
    if all(WHOLE_NUMBER.fullmatch(label) for label in union):
        return tuple(sorted(union, key=lambda label: (int(label), label)))
    return tuple(sorted(union))


def label_numbers(y: Array, classes: tuple[str, ...], settings: DataSettings) -> Tensor:
    """
    Return what a model is trained to give, [N]: class numbers (int64); or numbers (float64), [N, K] where a row has K; or masks [N, H, W].

    With ``settings.by_record`` a label that is not in ``classes``, or not such a number, becomes NO_LABEL or NaN.
    """
    if not settings.predicted.has_classes:
        y = resized_masks(y, settings.size) if settings.predicted.per_pixel else y
        return settings.predicted.encoded(finite_numbers(y))
    number = {label: index for index, label in enumerate(settings.predicted.outputs(classes))}
    if settings.by_record:
        return torch.tensor([number.get(label, NO_LABEL) for label in label_texts(y)], dtype=torch.int64)
    return torch.tensor([number[label] for label in label_texts(y)], dtype=torch.int64)


def has_label(rows: Dataset) -> Tensor:
    """Return for each row whether it has a label, [N] of bool."""
    return is_known(rows.y)
