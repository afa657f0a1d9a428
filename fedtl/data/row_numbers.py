"""Which stored rows a silo's training rows are, so that a person can find a row again."""

from dataclasses import replace

import numpy as np

from fedtl.data.hidden import hide_labels
from fedtl.data.parts import split_rows
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw
from fedtl.data.wrong_labels import with_wrong_labels


def training_row_numbers(raw: Raw, settings: DataSettings, silo: str, seed: int) -> Array:
    """
    Return the numbers [N] of the silo's labelled training rows among its stored rows ``raw.train``, counted from 0, in the
    order in which they are trained on: the rows are split once more, with their numbers in the place of their inputs.
    Raises DataError as the split does.
    """
    numbered = replace(raw, train=replace(raw.train, x=np.arange(len(raw.train.y))))
    split, _ = split_rows(numbered, settings, silo, seed)
    # Which labels are hidden depends on the labels as they are used.
    used = with_wrong_labels(split, settings, silo, seed)
    return hide_labels(used, settings, silo, seed)[0].train.x
