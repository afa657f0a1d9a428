"""
Images that are read from their files when a batch asks for them, for sets larger than memory (``data.stream``).

Each row is read by itself, by the code that reads all of them at once, so both give the same bits. Nothing is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedtl.data.image_files import load_images
from fedtl.data.pixels import is_pixels
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError

BLOCK = 64  # rows that are in memory at once, beyond a batch


@dataclass(frozen=True)
class StreamedImages:
    """
    Rows as a source stores them, in the place of an array: it has the shape and type of one, and ``[a:b]`` reads these rows.
    ``paths``: of all images, and ``stamps`` [N, 2] their sizes and times of change, by which a file is recognised. ``rows``: which of
    them, and in which order. ``first``: the first of all images [1, ...].
    """

    paths: tuple[Path, ...]
    stamps: Array = field(repr=False)
    rows: Array
    settings: DataSettings
    first: Array = field(repr=False)

    @classmethod
    def of(cls, paths: Sequence[Path], settings: DataSettings) -> "StreamedImages":
        """Return the images of these files. Raises DataError where the first one is not of a kind that can be streamed."""
        first = load_images(paths[:1], settings).x
        if not (is_pixels(first) or settings.pixel_range):
            raise DataError(
                f"{paths[0]} holds {first.dtype}, whose scale is learned from all rows, but data.stream = true; set data.pixel_range"
            )
        stamps = np.array([_stamp(path) for path in paths], np.int64)
        return cls(tuple(paths), stamps, np.arange(len(paths)), settings, first)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.first.shape[1:])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.first.dtype

    @property
    def ndim(self) -> int:
        return self.first.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Array) -> "StreamedImages":
        """Return the rows at these indices, which are not read yet."""
        return replace(self, rows=self.rows[rows])

    def __getitem__(self, rows: slice | Array) -> Array:
        """
        Read these rows. Raises DataError where a file cannot be read, changed since the run began, or holds several images or another
        type than the first.
        """
        return np.concatenate([self.first[:0], *map(self._read, self.rows[rows])])

    def _read(self, number: int) -> Array:
        path = self.paths[number]
        if _stamp(path) != tuple(self.stamps[number]):
            raise DataError(
                f"{path} changed after it was first read; run again, with files that stay as they are"
            )
        image = load_images([path], self.settings).x
        if len(image) != 1:
            raise DataError(
                f"{path} holds {len(image)} images, but data.stream = true reads one a file; set data.stream = false"
            )
        if image.dtype != self.first.dtype:
            raise DataError(
                f"{path} holds {image.dtype}, but {self.paths[0]} {self.first.dtype}; with data.stream all files need one type: set "
                "data.pixel_bits = 8 or data.pixel_range"
            )
        return image


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class StreamedInputs:
    """Images as a model takes them, in the place of a tensor [N, C, H, W]: ``[rows]`` reads and prepares them."""

    images: StreamedImages
    inputs: Inputs

    @property
    def _first(self) -> Tensor:
        return torch.from_numpy(self.inputs.apply(self.images.first))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.images), *self._first.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self._first.dtype

    @property
    def ndim(self) -> int:
        return self._first.ndim

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def is_floating_point(self) -> bool:
        return self._first.is_floating_point()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> "StreamedInputs":
        """Return the rows at these indices, or where a [N] of bool is true, which are not read yet."""
        return replace(self, images=self.images.take(rows.cpu().numpy()))

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Read these rows."""
        wanted = rows if isinstance(rows, slice) else rows.cpu().numpy()
        return torch.from_numpy(self.inputs.apply(self.images[wanted]))

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def blocks(x: Array) -> Iterator[Array]:
    """Yield the rows of an array, or of ``StreamedImages`` in its place a few at a time."""
    if not isinstance(x, StreamedImages):
        yield x
        return
    for start in range(0, len(x), BLOCK):
        yield x[start : start + BLOCK]
