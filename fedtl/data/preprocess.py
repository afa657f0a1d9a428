"""
From stored rows to what a model sees: size, channels, missing values, scale.

What is learned here is learned from a silo's own training rows, or declared; never from validation or test
rows. The result is a value of plain numbers, kept in the run folder, so that predictions for new rows go the
same way.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from fedtl.data.constants import bounds, constants
from fedtl.data.origins import Origin
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Inputs:
    """
    ``fill``, ``mean`` and ``std`` have a number a column (a channel, for images of floats); empty: unscaled.
    Pixels of uint8 are kept as they are, 0..255. ``low`` and ``high``: declared bounds, to which values are clipped.
    ``origin`` and ``label_origin``: where the constants of inputs and labels come from.
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
            x = np.where(np.isfinite(x), x, fill)
            if self.low:
                x = x.clip(
                    np.array(self.low, np.float32).reshape(axes),
                    np.array(self.high, np.float32).reshape(axes),
                )
            x = (x - mean) / std
        return np.asarray(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), np.float32)


def learn(x: Array, y: Array, columns: tuple[str, ...], settings: DataSettings, where: str) -> Inputs:
    """
    The inputs of one silo, from its own training rows ``x`` and ``y`` or from declared constants or bounds, with their
    origin. Raises DataError.
    """
    inputs = Inputs(settings.size, settings.channels, columns)
    if settings.scale == "none":
        return inputs
    if settings.scale not in ("silo", "dp"):
        return _declared(inputs, x, settings, where)
    if settings.scale == "dp":
        return _bounded(inputs, x, settings)
    if settings.task == "regression":
        y_mean, y_std = float(y.mean(dtype=np.float64)), _spread(y.astype(np.float64))
        inputs = replace(inputs, y_mean=y_mean, y_std=y_std, label_origin=Origin.LEARNED)
    if _is_pixels(x):
        return inputs
    groups = _columns_of(x, settings)
    fill, mean, std = zip(*(_constants(group) for group in groups), strict=True)
    return replace(inputs, fill=fill, mean=mean, std=std, origin=Origin.LEARNED)


def _names(x: Array, columns: tuple[str, ...], settings: DataSettings) -> tuple[str, ...]:
    """The names of what is scaled: columns, or channels by number; none for pixels."""
    if _is_pixels(x):
        return ()
    if x.ndim == 2:
        return columns or tuple(map(str, range(x.shape[1])))
    return tuple(map(str, range(_as_channels(x[:1], settings.channels).shape[1])))


def _declared(inputs: Inputs, x: Array, settings: DataSettings, where: str) -> Inputs:
    names, regression = _names(x, inputs.columns, settings), settings.task == "regression"
    if not names and not regression:
        raise DataError(f"silo {where}: pixels of 0..255 are not scaled by constants; leave data.scale out")
    found = constants(settings.scale, names)
    inputs = replace(
        inputs,
        fill=tuple(one.fill for one in found),
        mean=tuple(one.mean for one in found),
        std=tuple(one.std for one in found),
    )
    if not regression:
        return inputs
    (label,) = constants(settings.scale, (settings.label,))
    return replace(inputs, y_mean=label.mean, y_std=label.std)


def _bounded(inputs: Inputs, x: Array, settings: DataSettings) -> Inputs:
    """Clipped to the declared bounds, which become -1 and 1. The model releases mean and spread of that with noise."""
    found = bounds(settings.bounds, _names(x, inputs.columns, settings))
    inputs = replace(
        inputs,
        fill=tuple(one.fill for one in found),
        mean=tuple((one.low + one.high) / 2 for one in found),
        std=tuple((one.high - one.low) / 2 for one in found),
        low=tuple(one.low for one in found),
        high=tuple(one.high for one in found),
        origin=Origin.RELEASED,
    )
    if settings.task != "regression":
        return inputs
    (label,) = bounds(settings.bounds, (settings.label,))
    return replace(inputs, y_mean=(label.low + label.high) / 2, y_std=(label.high - label.low) / 2)


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
