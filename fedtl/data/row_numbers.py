"""Which stored rows a silo's rows are, so that a person can find a row again, and two runs with other splits can be compared row by row."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedtl.data.hidden import Hidden, hide_labels
from fedtl.data.parts import split_rows
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw
from fedtl.data.wrong_labels import with_wrong_labels


def training_row_numbers(raw: Raw, settings: DataSettings, silo: str, seed: int) -> Array:
    """
    Return the numbers [N] of the silo's labelled training rows among its stored rows ``raw.train``, counted from 0, in the
    order in which they are trained on: the rows are split once more, with their numbers in the place of their inputs.
    Raises DataError as the split does.
    """
    used, _ = _numbered(raw, settings, silo, seed)
    return used.train.x


def unlabelled_row_numbers(raw: Raw, settings: DataSettings, silo: str, seed: int) -> Array:
    """
    Return the numbers [N] of the training and validation rows whose labels are not used, those of training first. Validation rows that the source gives are counted after the training rows. Raises DataError as
    the split does.
    """
    _, hidden = _numbered(raw, settings, silo, seed)
    return np.empty(0, int) if hidden is None else np.concatenate([hidden.train, hidden.val])


def stored_inputs(raw: Raw, by: Inputs) -> Tensor:
    """Return the inputs of all stored training and validation rows, by the numbers of ``unlabelled_row_numbers``."""
    parts = (raw.train,) if raw.val is None else (raw.train, raw.val)
    return torch.cat([torch.from_numpy(by.apply(part.x)) for part in parts])


def _numbered(raw: Raw, settings: DataSettings, silo: str, seed: int) -> tuple[Raw, Hidden | None]:
    """Return the split rows, and those without a label that is used, with their numbers in the place of their inputs."""
    count = len(raw.train.y)
    numbered = replace(raw, train=replace(raw.train, x=np.arange(count)))
    if raw.val is not None:
        numbered = replace(numbered, val=replace(raw.val, x=count + np.arange(len(raw.val.y))))
    split, _ = split_rows(numbered, settings, silo, seed)
    # Which labels are hidden depends on the labels as they are used.
    used = with_wrong_labels(split, settings, silo, seed)
    return hide_labels(used, settings, silo, seed)
