"""What a data source gives: the rows of one silo as they are stored, before they are split, resized or scaled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedtl.data.settings import DataSettings

Array = np.ndarray
EXACT = 2**53  # up to which float64 holds every whole number
MAX_FLOAT32 = np.float64(np.finfo(np.float32).max)  # an array of float16 is compared with it in float64


@dataclass(frozen=True)
class Part:
    """
    Training, validation or test rows.

    ``x``: with ``data.stream`` a ``streamed.StreamedImages`` in the place of an array; else images [N, H, W] or [N, H, W, C] of uint8 or floats, a table [N, columns] of floats, or series [N, T, C] of floats with T
    steps of C channels. ``y`` [N]: integers or
    texts to classify, floats to regress. ``units`` [N]: whose row each is, such as a patient's number; None: not known.
    """

    x: Array
    y: Array
    units: Array | None = None

    def take(self, rows: Array) -> "Part":
        """Return the rows at these indices."""
        x = self.x[rows] if isinstance(self.x, np.ndarray) else self.x.take(rows)
        return Part(x, self.y[rows], None if self.units is None else self.units[rows])


@dataclass(frozen=True)
class Raw:
    """
    The stored rows of one silo. Parts that the source does not give are split off the training rows later. ``target``:
    inputs of the second domain, without labels. ``columns``: names of a table's columns or a series' channels, () for images.
    ``unread``: a line for each thing that lies next to the rows and was not read. ``sizes``: of images that ``data.size`` resized as
    they were read, how many had which sides, and ``spacings``: how many files state which distance of pixels in mm, or how many series have
    steps of which length; of a set that is dealt to silos, over all of it. ``remarks``: a line for each thing that was read and may not be
    wanted. ``properties``: numbers [N] of the training rows that are no inputs, such as the format of a file, by what they are. ``palette``: the colour of
    each number in masks with one.
    """

    train: Part
    val: Part | None = None
    test: Part | None = None
    target: Array | None = None
    target_test: Part | None = None
    columns: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    sizes: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    spacings: Mapping[tuple[float, ...], int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    properties: Mapping[str, Array] = field(default_factory=dict)
    palette: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def target_to_split(self) -> bool:
        """Whether ``target`` and ``target_test`` are the same rows, of which some still have to be kept for testing."""
        return self.target_test is not None and self.target is self.target_test.x


def finite_numbers(values: Array) -> Array:
    """
    Return the values as float64, NaN for what is not a number that float32 can hold. Numbers are narrowed to float32 only once
    they are standardised: a time stamp or another large value would lose its digits.
    """
    if values.dtype.kind not in "uifb":
        return np.full(values.shape, np.nan)
    numbers = values.astype(np.float64)
    return np.where(np.abs(numbers) <= MAX_FLOAT32, numbers, np.nan)


def rounded_whole_number(values: Array) -> int | None:
    """Return the first whole number that float64 would round; None where it holds all exactly. Other types hold none."""
    if values.dtype.kind not in "ui" or values.dtype.itemsize < 8 or not values.size:
        return None
    if max(int(values.max()), -int(values.min())) < EXACT:
        return None
    large = values[np.abs(values.astype(np.float64)) >= EXACT].ravel()
    return next((whole for whole in map(int, large) if int(float(whole)) != whole), None)


def parts_of(raw: Raw) -> dict[str, Part]:
    """Return the parts that are there, by the name that a message gives them."""
    parts = {"train": raw.train, "val": raw.val, "test": raw.test, "target test": raw.target_test}
    return {name: part for name, part in parts.items() if part is not None}


def learns_everything(settings: DataSettings) -> frozenset[str]:
    """Return all that a source can learn from rows: the default for a source that does not declare it."""
    return frozenset({"split", "shape", "columns"})


def learns_nothing(settings: DataSettings) -> frozenset[str]:
    """Return the empty set: the source reads each row without looking at the others."""
    return frozenset()


@dataclass(frozen=True)
class Source:
    """
    One entry of the table of data sources.

    ``silos`` lists the names of the silos without reading their rows, ``read`` loads one silo; both raise DataError.
    ``classes``: the labels that the source itself declares. ``learns``: which of "split", "shape" and "columns" ``read``
    takes from the content of the rows when ``settings.by_record`` is set; private training refuses these (see
    ``data.origins``). ``missing_values``: whether a NaN in a table stands for a missing value.
    """

    silos: Callable[[DataSettings], Sequence[str]]
    read: Callable[[DataSettings, str], Raw]
    about: str
    needs_path: bool = True
    classes: tuple[str, ...] = ()
    learns: Callable[[DataSettings], frozenset[str]] = learns_everything
    missing_values: bool = False
