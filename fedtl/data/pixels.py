"""Arrays of images and volumes as a model takes them: channels, size, and the range of pixels."""

import numpy as np
import torch
import torch.nn.functional as F

from fedtl.data.source import Array, finite_numbers
from fedtl.errors import DataError

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
ROWS_AT_ONCE = 1024


def is_pixels(x: Array) -> bool:
    """Return whether these are images or volumes of uint8 or uint16: pixels, whose range is that of the type."""
    return x.dtype.kind == "u" and x.dtype.itemsize <= 2 and x.ndim > 2


def to_range(x: Array, low: float, high: float) -> Array:
    """Return float32 numbers, clipped to ``low`` and ``high`` and mapped to -1..1; 0 for what is not a number."""
    values = (finite_numbers(x).clip(low, high) - low) / (high - low) * 2 - 1
    return np.nan_to_num(values.astype(np.float32), nan=0.0)


def with_channels(x: Array, channels: int | str, kind: str) -> Array:
    """
    Return images [N, H, W] or [N, H, W, C] as [N, C, H, W] with this number of channels, and volumes [N, D, H, W] as
    [N, 1, D, H, W]. Raises DataError.
    """
    if kind == "volumes":
        return x[:, None]
    x = x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1)
    if channels != "native" and x.shape[1] not in (1, 3):
        raise DataError(
            f"data.channels = {channels}: images of {x.shape[1]} channels are neither grey nor RGB"
        )
    if channels == 3 and x.shape[1] == 1:
        return np.repeat(x, 3, axis=1)
    if channels == 1 and x.shape[1] == 3:
        grey = np.tensordot(LUMINANCE, x, axes=(0, 1))[:, None]
        return grey.round().astype(x.dtype) if is_pixels(x) else grey.astype(np.float32)
    return x


def resize(x: Array, size: int) -> Array:
    """
    Resize images [N, C, H, W] with bilinear interpolation, 1,024 at a time; volumes [N, 1, D, H, W] also along D. Values are
    averaged where the size decreases.
    """
    if x.shape[2:] == (size,) * (x.ndim - 2):
        return x
    if x.ndim == 5:
        planes = resize(x[:, 0], size)  # [N, D, size, size]
        return resize_sides(planes.swapaxes(1, 2), (size, size)).swapaxes(1, 2)[:, None]
    return resize_sides(x, (size, size))


def resize_sides(x: Array, sides: tuple[int, int]) -> Array:
    """Resize the last two axes of [N, C, H, W] to ``sides`` with bilinear interpolation."""
    chunks = [
        F.interpolate(
            torch.from_numpy(part.astype(np.float32)), sides, mode="bilinear", antialias=True
        ).numpy()
        for part in np.array_split(x, max(1, len(x) // ROWS_AT_ONCE))
    ]
    resized = np.concatenate(chunks)
    if not is_pixels(x):
        return resized
    return resized.round().clip(0, np.iinfo(x.dtype).max).astype(x.dtype)


def resized_masks(y: Array, size: int | str) -> Array:
    """Return masks [N, H, W] of ``data.size``; each pixel has the number of the nearest one."""
    if size == "native" or y.shape[1:] == (int(size), int(size)):
        return y
    pixels = torch.from_numpy(y.astype(np.float64))[:, None]
    return F.interpolate(pixels, (int(size), int(size)), mode="nearest-exact")[:, 0].numpy().astype(y.dtype)


def check_masks(x: Array, y: Array, where: str) -> None:
    """Raise DataError unless each of the images ``x`` has a mask of its height and width."""
    if x.ndim < 3 or y.shape != x.shape[:3]:
        raise DataError(
            f'{where}: the inputs are {x.shape} and the labels {y.shape}; data.task = "segmentation" needs images [N, H, W] or '
            "[N, H, W, C] and masks [N, H, W] of numbers"
        )
