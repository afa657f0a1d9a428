"""Reads image files of every kind (pictures, DICOM, NIfTI) into one array of one shape and one type."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedtl.data import dicom, nifti, pictures
from fedtl.data.formats import is_hidden
from fedtl.data.pixels import is_pixels, resize, with_channels
from fedtl.data.settings import DataSettings, declared_range
from fedtl.data.source import Array
from fedtl.errors import DataError

SUFFIXES = (*sorted(pictures.SUFFIXES), *sorted(dicom.SUFFIXES), *nifti.SUFFIXES)
OF_EIGHT, EIGHT_TO_SIXTEEN = 255, 257  # 255 becomes 65535
PROPERTIES = (  # numbered in the order of their values
    "the format of a file",
    "the height of a file",
    "the width of a file",
    "whether a file has colours",
    "the depth of a file",
)
SAME = {
    ".jpeg": ".jpg",
    ".tiff": ".tif",
    ".dicom": ".dcm",
    "": ".dcm",
    ".gz": ".nii",
}  # suffixes of one format
FEW_OF_SIXTEEN = (
    1 << 12
)  # pixels of 16 bits that all are below are those of a camera or scanner with fewer bits


@dataclass(frozen=True)
class Images:
    """
    Rows ``x`` [N, H, W], [N, H, W, 3] or, of volumes, [N, D, H, W], how many of them each file has, and how many had which ``sizes``
    before ``data.size``. ``properties``: numbers by file that are no inputs, by what they are.
    """

    x: Array
    counts: tuple[int, ...]
    sizes: Mapping[tuple[int, ...], int]
    properties: Mapping[str, Array]


def is_image(path: Path) -> bool:
    """Return whether a reader opens the file, by its suffix; without a suffix, by the first bytes of DICOM."""
    if is_hidden(path) or not path.is_file():
        return False
    return path.name.lower().endswith(SUFFIXES) or (not path.suffix and dicom.is_dicom(path))


def holds_volumes(folder: str) -> bool:
    """Return whether a NIfTI file lies in the folder or below."""
    return any(nifti.is_nifti(path) for path in Path(folder).rglob("*"))


def load_images(paths: Sequence[Path], settings: DataSettings) -> Images:
    """
    Return the rows of the files: uint8, uint16, or numbers in their own unit. Grey images become RGB only if others have colours or
    ``data.channels`` is 3. Raises DataError where the files differ in size, and ``data.size`` is "native", or in type.
    """
    rows: list[Array] = []
    sizes = Counter[tuple[int, ...]]()
    properties: list[tuple[int | str, ...]] = []
    for path in paths:
        stored = _read(path, settings)
        before = _sides_before(path, stored, settings)
        sizes[before] += len(stored)
        suffix = SAME.get(path.suffix.lower(), path.suffix.lower())
        properties.append((suffix, *before[-2:], stored.ndim, stored.dtype.itemsize))
        rows.append(_sized(stored, settings))
        _check_finite(path, rows[-1], settings)
        if _sides(rows[-1], settings) != _sides(rows[0], settings):
            raise DataError(
                f"{path} is {_px(rows[-1], settings)}, but {os.path.relpath(paths[0], path.parent)} is {_px(rows[0], settings)}; set data.size to "
                "resize them"
            )
    if settings.kind != "volumes":
        native = settings.channels == "native"
        colours = settings.channels == 3 or (native and any(part.ndim == 4 for part in rows))
        rows = [_with_colours(part) if colours else _grey(part) for part in rows]
    counts = tuple(len(part) for part in rows)
    own = [np.unique(column, return_inverse=True)[1] for column in zip(*properties, strict=True)]
    named = dict(zip(PROPERTIES, own, strict=True))
    return Images(np.concatenate(_of_one_type(rows, paths, settings)), counts, dict(sizes), named)


def _read(path: Path, settings: DataSettings) -> Array:
    """Return the rows of one file, [n, ...]. Raises DataError."""
    if nifti.is_nifti(path):
        return nifti.read_nifti(path, settings)
    if path.suffix.lower() in dicom.SUFFIXES or not path.suffix:
        return dicom.read_dicom(path, settings)
    if settings.kind == "volumes":
        raise DataError(
            f'{path} is a picture, but data.kind = "volumes"; fedtl reads volumes from NIfTI, DICOM and .npz'
        )
    return pictures.read_picture(path, settings)[None]


def _sides_before(path: Path, rows: Array, settings: DataSettings) -> tuple[int, ...]:
    """Return the sides that a file's images had before ``data.size``; a picture of 8 bits has been resized already."""
    resized = settings.size != "native" and path.suffix.lower() in pictures.SUFFIXES
    return pictures.sides(path) if resized else _sides(rows, settings)


def _sized(rows: Array, settings: DataSettings) -> Array:
    """Return the rows of one file in the size of ``data.size``."""
    if settings.size == "native":
        return rows
    resized = resize(with_channels(rows, "native", settings.kind), int(settings.size))
    if settings.kind == "volumes" or rows.ndim == 3:
        return resized[:, 0]
    return np.moveaxis(resized, 1, 3)


def _sides(rows: Array, settings: DataSettings) -> tuple[int, ...]:
    return rows.shape[1:] if settings.kind == "volumes" else rows.shape[1:3]


def _px(rows: Array, settings: DataSettings) -> str:
    sides = _sides(rows, settings)
    return " x ".join(map(str, sides if settings.kind == "volumes" else sides[::-1])) + " px"


def _check_finite(path: Path, rows: Array, settings: DataSettings) -> None:
    """Raise DataError for values that are not finite, unless a row must not be refused for what it holds."""
    if rows.dtype.kind == "f" and not settings.by_record and (count := int((~np.isfinite(rows)).sum())):
        raise DataError(f"{path} holds {count} values that are not finite; correct or remove them")


def _with_colours(rows: Array) -> Array:
    return rows if rows.ndim == 4 else np.repeat(rows[..., None], 3, axis=3)


def _grey(rows: Array) -> Array:
    return rows if rows.ndim == 3 else np.stack([pictures.to_grey(image) for image in rows])


def _check_depths(rows: Sequence[Array], first: Mapping[str, Path], settings: DataSettings) -> None:
    """Raise DataError where files of 8 bits and of 16 bits cannot have one unit. ``first``: a file of each type, by its name."""
    high = max(declared_range(settings), default=0.0)
    brightest = max(int(part.max(initial=0)) for part in rows if part.dtype == np.uint16)
    few = not high and not settings.by_record and brightest < FEW_OF_SIXTEEN
    if few or high > OF_EIGHT:
        problem = (
            f"use only {brightest.bit_length()} of them, and would be nearly black beside those"
            if few
            else f"have the range of data.pixel_range up to {high:g}, which those have not"
        )
        raise DataError(
            f"{first['uint8']} has 8 bits and {os.path.relpath(first['uint16'], first['uint8'].parent)} 16; files of 16 bits {problem}; save "
            "all files of a silo with one depth"
        )


def _of_one_type(rows: Sequence[Array], paths: Sequence[Path], settings: DataSettings) -> Sequence[Array]:
    """Return the rows of all files in one type. Raises DataError where one holds pixels, and another numbers in a unit of its own."""
    first = {part.dtype.name: path for part, path in zip(reversed(rows), reversed(paths), strict=True)}
    if "uint8" in first and "uint16" in first:
        _check_depths(rows, first, settings)
    if len(first) == 1 or settings.pixel_range:
        return rows
    (one, path), (other, second) = list(first.items())[:2]
    pixels = all(is_pixels(part) for part in rows)
    if not pixels or settings.by_record:
        advice = "set data.pixel_bits = 8" if pixels else "set data.pixel_range"
        raise DataError(
            f"{path} holds {one} and {os.path.relpath(second, path.parent)} {other}; {advice}, or save all files of a silo in one type"
        )
    return [part if part.dtype == np.uint16 else part.astype(np.uint16) * EIGHT_TO_SIXTEEN for part in rows]
