"""What a source gives: one silo's rows as they are stored, before anything is split, resized or scaled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedtl.data.settings import DataSettings

Array = np.ndarray


@dataclass(frozen=True)
class Part:
    """
    ``x``: uint8 or float images [N, H, W] or [N, H, W, C], or a float table [N, columns], NaN where a value is
    missing. ``y`` [N]: integers or strings to classify, floats to regress. ``units`` [N]: whose row each is, such as
    a patient's number, where the settings name such a column.
    """

    x: Array
    y: Array
    units: Array | None = None


@dataclass(frozen=True)
class Raw:
    """One silo. What a source does not split is split later; ``target`` is its second domain, without labels."""

    train: Part
    val: Part | None = None
    test: Part | None = None
    target: Array | None = None
    target_test: Part | None = None
    columns: tuple[str, ...] = ()


def everything(settings: DataSettings) -> frozenset[str]:
    """What a source learns from rows if it does not say: whatever it could."""
    return frozenset({"split", "shape", "columns"})


@dataclass(frozen=True)
class Source:
    """
    ``silos`` lists the names cheaply; ``read`` loads one. Both raise DataError. ``classes``: the labels that the source
    itself declares. ``learns``: which of "split", "shape" and "columns" ``read`` takes from the rows' contents, with
    ``settings.by_record`` set (see ``privacy.origins``); private training refuses them.
    """

    silos: Callable[[DataSettings], Sequence[str]]
    read: Callable[[DataSettings, str], Raw]
    about: str
    needs_path: bool = True
    classes: tuple[str, ...] = ()
    learns: Callable[[DataSettings], frozenset[str]] = everything
