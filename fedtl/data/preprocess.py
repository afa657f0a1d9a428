"""
Turns stored rows into the inputs of a model: size, channels, missing values, scale.

The constants are declared, or learned from a silo's own training rows, never from validation or test rows. They are kept
as plain numbers in the run folder, so that new rows are prepared in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedtl.data.columns import FIXED_SCALE, columns_with_a_kind
from fedtl.data.constants import Constants, bounds_for, constants_for, misnamed, read_constants_file
from fedtl.data.count_unit import declared_count
from fedtl.data.origins import Origin
from fedtl.data.pixels import ROWS_AT_ONCE, is_pixels, resize, to_range, with_channels
from fedtl.data.settings import DataSettings, declared_range
from fedtl.data.source import Array, finite_numbers
from fedtl.data.target_encoding import TargetTable, encoded_rows
from fedtl.errors import ConfigError, ConstantsError, DataError

AS_IT_IS = Constants(0.0, 0.0, 1.0)
UINT16_RANGE = (0.0, 65535.0)


@dataclass(frozen=True)
class Inputs:
    """
    How one silo's inputs are prepared.

    ``fill``, ``mean`` and ``std`` have one number for each column (for each channel of float images and series); (): not scaled.
    ``low`` and ``high``: declared bounds, to which values are clipped. Pixels of uint8 stay as they are, 0..255, which a
    model sees as -1..1; those of uint16 are mapped from 0..65535 to -1..1. ``pixel_range``: the declared range that is mapped
    so instead, of pixels or other numbers; (): none. ``pixels``: whether the training rows were pixels of uint8 or uint16;
    None: not known. ``kind``: as in the settings. ``tables``: of target-encoded columns, which are encoded before they are scaled.
    ``origin`` and ``label_origin``: where the constants of the inputs and of the labels come from.
    """

    size: int | str
    channels: int | str
    columns: tuple[str, ...]
    fill: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    y_mean: float = 0.0
    y_std: float = 1.0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    origin: Origin = Origin.DECLARED
    label_origin: Origin = Origin.DECLARED
    kind: str = "auto"
    pixel_range: tuple[float, ...] = ()
    pixels: bool | None = None
    sequence: bool = False
    tables: tuple[TargetTable, ...] = ()

    @classmethod
    def unscaled(cls, settings: DataSettings, columns: tuple[str, ...]) -> "Inputs":
        """Return how inputs are prepared before any constant is learned."""
        return cls(
            *(settings.size, settings.channels, columns),
            kind=settings.kind,
            pixel_range=declared_range(settings),
            sequence=settings.sequence is not None,
        )

    def apply(self, x: Array) -> Array:
        """
        Return uint8 [N, C, H, W] for pixels of uint8 without a declared range, float32 [N, C, H, W] for other images,
        [N, 1, D, H, W] for volumes, [N, columns] for a table, and [N, C, T] for series [N, T, C].
        """
        if self.sequence:
            x = np.moveaxis(x, 1, 2)
        elif x.ndim > 2:
            x = with_channels(x, self.channels, self.kind)
            x = x if self.size == "native" else resize(x, int(self.size))
        if is_pixels(x) and not self.pixel_range and x.dtype == np.uint8:
            return x
        scaled = np.empty(x.shape, np.float32)
        for start in range(0, len(x), ROWS_AT_ONCE):  # float64 needs twice the memory
            rows = slice(start, start + ROWS_AT_ONCE)
            scaled[rows] = self._scaled(x[rows])
        return scaled

    @property
    def signed(self) -> bool:
        """Whether a model sees the images as -1..1: pixels of uint8 or uint16, or a declared range."""
        return bool(self.pixel_range) or (self.pixels is True and not self.mean)

    def unit_problem(self, x: Array) -> str:
        """Return why new rows have another unit than the training rows; "" where that is not known."""
        if x.ndim <= 2 or self.pixels is None or self.pixel_range:
            return ""
        in_own_unit = bool(self.mean) or not self.pixels
        if not in_own_unit and not is_pixels(x):
            return "pixels of 0..255 (uint8) or 0..65535 (uint16)"
        if in_own_unit and is_pixels(x) and (x.dtype == np.uint8 or not self.mean):
            return "numbers in a unit of their own, such as float32"
        return ""

    def _scaled(self, x: Array) -> Array:
        """Return float32 for images with channels, or rows of a table."""
        if x.ndim > 2 and (self.pixel_range or (is_pixels(x) and not self.mean)):
            return to_range(x, *(self.pixel_range or UINT16_RANGE))
        x = encoded_rows(finite_numbers(x), self.tables)

        def by_column(constants: Sequence[float]) -> Array:
            return np.array(constants, np.float64).reshape((1, -1) + (1,) * (x.ndim - 2))

        if self.mean:
            x = np.where(np.isnan(x), by_column(self.fill), x)
            if self.low:
                x = x.clip(by_column(self.low), by_column(self.high))
            x = (x - by_column(self.mean)) / by_column(self.std)
        with np.errstate(over="ignore"):
            narrow = x.astype(np.float32)
        return np.nan_to_num(narrow, nan=0.0, posinf=0.0, neginf=0.0)


def fit_inputs(x: Array, y: Array, columns: tuple[str, ...], settings: DataSettings, silo: str) -> Inputs:
    """
    Return how the inputs of one silo are prepared, from declared constants or bounds, or learned from its own training
    rows ``x`` and ``y``. Raises ConfigError or DataError.
    """
    inputs = Inputs.unscaled(settings, columns)
    inputs = replace(inputs, pixels=None if x.ndim == 2 or inputs.sequence else is_pixels(x))
    if settings.scale == "none":
        return inputs
    if settings.scale == "dp":
        return _from_bounds(inputs, x, settings)
    if settings.scale != "silo":
        return _from_file(inputs, x, settings, silo)
    inputs = _with_scale_of_labels(inputs, y, settings)
    if x.ndim > 2 and (settings.pixel_range or is_pixels(x)):
        return inputs
    fill, mean, std = _fit_columns(_values_by_column(x, settings))
    learned = [Constants(*each) for each in zip(fill, mean, std, strict=True)]
    return _with_constants(replace(inputs, origin=Origin.LEARNED), learned, settings)


def _with_scale_of_labels(inputs: Inputs, y: Array, settings: DataSettings) -> Inputs:
    """Return the inputs with the scale of a silo's labels where the task has one; 1 where no count is above 0."""
    task = settings.predicted
    if not task.standardised and not task.relative:
        return inputs
    labels = finite_numbers(y)
    labels = labels[~np.isnan(labels)]
    if task.relative:
        mean = float(labels.mean()) if len(labels) else 0.0
        return replace(inputs, y_std=mean or 1.0, label_origin=Origin.LEARNED)
    (y_mean,), (y_std,) = _mean_and_std(labels[:, None]) if len(labels) else ((0.0,), (1.0,))
    return replace(inputs, y_mean=y_mean, y_std=y_std, label_origin=Origin.LEARNED)


def _with_constants(inputs: Inputs, constants: Sequence[Constants], settings: DataSettings) -> Inputs:
    """Return the inputs with the constants of each column or channel. Words and tokens have a scale of their own, which stays."""
    words = _words(settings)
    if words:
        constants = [
            AS_IT_IS if name in words else own for name, own in zip(inputs.columns, constants, strict=True)
        ]
    return replace(
        inputs,
        fill=tuple(column.fill for column in constants),
        mean=tuple(column.mean for column in constants),
        std=tuple(column.std for column in constants),
    )


def _words(settings: DataSettings) -> frozenset[str]:
    """Return the names of the inputs that words are hashed to, or that are tokens."""
    texts = [column for column in columns_with_a_kind(settings) if column.kind in FIXED_SCALE]
    return frozenset(name for column in texts for name in column.inputs)


def seen_as_signed(x: Array, settings: DataSettings) -> bool:
    """Return whether a model will see these rows as -1..1, before any constant is learned: see ``Inputs.signed``."""
    if x.ndim == 2 or settings.sequence is not None:
        return False
    by_constants = x.dtype != np.uint8 and settings.scale not in ("silo", "none")
    return bool(settings.pixel_range) or (is_pixels(x) and not by_constants)


def _from_file(inputs: Inputs, x: Array, settings: DataSettings, silo: str) -> Inputs:
    """Scale by declared constants."""
    names, of_labels = _column_names(x, inputs.columns, settings), settings.predicted.standardised
    if not names and not of_labels and not settings.predicted.relative:
        raise DataError(
            f"data.scale: silo {silo} has pixels of 0..255, which are not scaled by constants; remove data.scale"
        )
    path = Path(settings.scale)
    table = read_constants_file(path)
    if wrong := misnamed(table, [*names, settings.label]):
        raise ConstantsError(f"data.scale: {path} has {wrong}")
    words = _words(settings)
    declared = iter(constants_for(path, table, [name for name in names if name not in words]))
    inputs = _with_constants(
        inputs, [AS_IT_IS if name in words else next(declared) for name in names], settings
    )
    if settings.predicted.relative:
        return replace(inputs, y_std=declared_count(settings))
    if not of_labels:
        return inputs
    (label,) = constants_for(path, table, [settings.label])
    return replace(inputs, y_mean=label.mean, y_std=label.std)


def _from_bounds(inputs: Inputs, x: Array, settings: DataSettings) -> Inputs:
    """Clip to the declared bounds and map them to -1 and 1. The model then releases mean and spread with noise."""
    names = _column_names(x, inputs.columns, settings)
    if wrong := misnamed(settings.bounds, [*names, settings.label]):
        raise ConfigError(f"data.bounds has {wrong}")
    bounds = bounds_for(settings.bounds, names)
    inputs = replace(
        inputs,
        fill=tuple(column.fill for column in bounds),
        mean=tuple((column.low + column.high) / 2 for column in bounds),
        std=tuple((column.high - column.low) / 2 for column in bounds),
        low=tuple(column.low for column in bounds),
        high=tuple(column.high for column in bounds),
        origin=Origin.RELEASED,
    )
    if settings.predicted.relative:
        return replace(inputs, y_std=declared_count(settings))
    if not settings.predicted.standardised:
        return inputs
    (label,) = bounds_for(settings.bounds, [settings.label])
    return replace(inputs, y_mean=(label.low + label.high) / 2, y_std=(label.high - label.low) / 2)


def _column_names(x: Array, columns: tuple[str, ...], settings: DataSettings) -> tuple[str, ...]:
    """
    Return the names of what is scaled: columns, channels of series, or channels of images by number; () for pixels of uint8 and a
    declared range.
    """
    if x.ndim == 2 or settings.sequence is not None:
        return columns or tuple(map(str, range(x.shape[-1])))
    if x.dtype == np.uint8 or settings.pixel_range:
        return ()
    return tuple(map(str, range(with_channels(x[:1], settings.channels, settings.kind).shape[1])))


def _values_by_column(x: Array, settings: DataSettings) -> Array:
    """Return the values of each column, or of each channel of float images and series: [values, columns], NaN where missing."""
    if x.ndim == 2 or settings.sequence is not None:
        return finite_numbers(x.reshape(-1, x.shape[-1]))
    channels = with_channels(x, settings.channels, settings.kind).swapaxes(0, 1)
    return finite_numbers(channels.reshape(len(channels), -1).T)


def _fit_columns(values: Array) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """
    Return the fill value, mean and standard deviation of each column of ``values`` [N, columns].

    A missing value takes the median of its column; a column without any value takes 0.
    """
    from sklearn.impute import SimpleImputer  # takes a second to import, and only learned constants need it

    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    mean, std = _mean_and_std(imputer.fit_transform(values))
    return tuple(imputer.statistics_.tolist()), mean, std


def _mean_and_std(values: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """
    Return mean and standard deviation of each column of ``values`` [N, columns], float64; a deviation of 1 for a constant: one
    that varies no more than rounding makes it vary (scikit-learn's limit), which depends on the column's own size.
    """
    from sklearn.preprocessing import StandardScaler

    # Divided by powers of two, which change no digit, into -1..1: no square overflows or vanishes, and no deviation is 1.
    sizes = np.frexp(np.abs(values).max(0, initial=0.0))[1]
    # Column after column in memory, each is summed in the order in which numpy sums it: the same numbers to the bit.
    scaler = StandardScaler().fit(np.asfortranarray(np.ldexp(values, -sizes), np.float64))
    std = np.where(scaler.scale_ == 1.0, 1.0, np.ldexp(np.sqrt(scaler.var_), sizes))
    return tuple(np.ldexp(scaler.mean_, sizes).tolist()), tuple(std.tolist())
