"""
From stored rows to what a model sees: size, channels, missing values, scale.

What is learned here is learned from a silo's own training rows, or declared; never from validation or test
rows. The result is a value of plain numbers, kept in the run folder, so that predictions for new rows go the
same way.
"""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedtl.data.raw import Array
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Inputs:
    """
    ``fill``, ``mean`` and ``std`` have a number a column (a channel, for images of floats); empty: unscaled.
    Pixels of uint8 are kept as they are, 0..255.
    """

    size: int | str
    channels: int | str
    columns: tuple[str, ...]
    fill: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    y_mean: float = 0.0
    y_std: float = 1.0

    def apply(self, x: Array) -> Array:
        """uint8 [N, C, H, W] for pixels, float32 [N, C, H, W] or [N, columns] for anything else."""
        if x.ndim > 2:
            x = _as_channels(x, self.channels)
            x = x if self.size == "native" else _resize(x, int(self.size))
        if _is_pixels(x):
            return x
        x = x.astype(np.float32)
        axes = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
        if self.mean:
            fill, mean, std = (
                np.array(v, np.float32).reshape(axes) for v in (self.fill, self.mean, self.std)
            )
            x = (np.where(np.isnan(x), fill, x) - mean) / std
        return np.asarray(np.nan_to_num(x, nan=0.0), np.float32)


def learn(x: Array, y: Array, columns: tuple[str, ...], settings: DataSettings, where: str) -> Inputs:
    """The inputs of one silo, from its own training rows ``x`` and ``y`` or from the declared constants."""
    shape_only = Inputs(settings.size, settings.channels, columns)
    regression = settings.task == "regression"
    if settings.scale not in ("silo", "none"):
        if not columns and not regression:
            raise DataError(
                f"silo {where}: the constants of data.scale are for the columns of a table, not images"
            )
        return _declared(shape_only, settings, regression)
    if settings.scale == "none":
        return shape_only
    y_mean, y_std = (
        (float(y.mean(dtype=np.float64)), _spread(y.astype(np.float64))) if regression else (0.0, 1.0)
    )
    if _is_pixels(x):
        return Inputs(settings.size, settings.channels, columns, y_mean=y_mean, y_std=y_std)
    groups = _columns_of(x, settings)
    fill, mean, std = zip(*(_constants(group) for group in groups), strict=True)
    return Inputs(settings.size, settings.channels, columns, fill, mean, std, y_mean, y_std)


def _is_pixels(x: Array) -> bool:
    return x.dtype == np.uint8 and x.ndim > 2


def _columns_of(x: Array, settings: DataSettings) -> list[Array]:
    if x.ndim == 2:
        return list(x.astype(np.float32).T)
    return [channel.reshape(-1) for channel in _as_channels(x, settings.channels).swapaxes(0, 1)]


def _constants(values: Array) -> tuple[float, float, float]:
    """(fill, mean, std) of one column: missing cells take the median; a column never seen takes 0 throughout."""
    seen = values[~np.isnan(values)].astype(np.float64)
    if not len(seen):
        return 0.0, 0.0, 1.0
    fill = float(np.median(seen))
    filled = np.where(np.isnan(values), fill, values).astype(np.float64)
    return fill, float(filled.mean()), _spread(filled)


def _spread(values: Array) -> float:
    std = float(values.std())
    return std if std > 1e-8 else 1.0


def _declared(inputs: Inputs, settings: DataSettings, regression: bool) -> Inputs:
    path = Path(settings.scale)
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f'data.scale: neither "silo" nor "none" nor a readable TOML file of constants: {path} ({error})'
        ) from error

    def constant(column: str, key: str, otherwise: float | None = None) -> float:
        entry = table.get(column)
        value = entry.get(key, otherwise) if isinstance(entry, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"data.scale: {path} must have a finite number {key} in [{column}]")
        return float(value)

    mean = tuple(constant(column, "mean") for column in inputs.columns)
    std = tuple(constant(column, "std") for column in inputs.columns)
    fill = tuple(constant(column, "fill", m) for column, m in zip(inputs.columns, mean, strict=True))
    y_mean, y_std = (
        (constant(settings.label, "mean"), constant(settings.label, "std")) if regression else (0.0, 1.0)
    )
    if any(value <= 0 for value in (*std, y_std)):
        raise DataError(f"data.scale: {path} has a std that is not above 0")
    return Inputs(inputs.size, inputs.channels, inputs.columns, fill, mean, std, y_mean, y_std)


def _as_channels(x: Array, channels: int | str) -> Array:
    """[N, H, W] or [N, H, W, C] to [N, C, H, W] with the asked number of channels."""
    x = x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1)
    if channels != "native" and x.shape[1] not in (1, 3):
        raise DataError(
            f"data.channels = {channels}: images of {x.shape[1]} channels are neither grey nor RGB"
        )
    if channels == 3 and x.shape[1] == 1:
        return np.repeat(x, 3, axis=1)
    if channels == 1 and x.shape[1] == 3:
        grey = np.tensordot(LUMINANCE, x, axes=(0, 1))[:, None]
        return grey.round().astype(np.uint8) if x.dtype == np.uint8 else grey.astype(np.float32)
    return x


def _resize(x: Array, size: int) -> Array:
    if x.shape[2:] == (size, size):
        return x
    chunks = [
        F.interpolate(
            torch.from_numpy(part.astype(np.float32)), (size, size), mode="bilinear", antialias=True
        ).numpy()
        for part in np.array_split(x, max(1, len(x) // 1024))
    ]
    resized = np.concatenate(chunks)
    return resized.round().clip(0, 255).astype(np.uint8) if x.dtype == np.uint8 else resized
