"""Image files in folders: ``<path>/<silo>/<class>/*`` or ``<path>/<silo>/{train,val,test}/<class>/*``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
SPLITS = ("train", "val", "test")
GREY = ("1", "L", "LA")


def silos(settings: DataSettings) -> Sequence[str]:
    home = Path(settings.path)
    if not home.is_dir() or not (names := _folders(home)):
        raise DataError(f"data.path: {settings.path} has no folder; each silo needs one")
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows; grey images become RGB only if others of the silo have colours. Raises DataError."""
    home = Path(settings.path) / name
    splits = [split for split in SPLITS if (home / split).is_dir()]
    if splits and "train" not in splits:
        raise DataError(f"{home} has a folder {splits[0]} but none named train; add one")
    files = {split: _files(home / split, settings) for split in splits} or {"train": _files(home, settings)}
    paths = [path for labelled in files.values() for path, _ in labelled]
    images = load_images(
        paths, settings.size, settings.channels
    )  # together, so that all parts have one shape
    parts: dict[str, Part] = {}
    for split, labelled in files.items():
        parts[split] = Part(images[: len(labelled)], np.array([label for _, label in labelled]))
        images = images[len(labelled) :]
    return Raw(parts["train"], parts.get("val"), parts.get("test"))


def _files(folder: Path, settings: DataSettings) -> list[tuple[Path, str]]:
    """
    Return each image file with its class. With ``by_record`` they are in the order of the files' names, so that a row's
    position does not depend on its class.
    """
    files = [(path, label) for label in _folders(folder) for path in sorted((folder / label).iterdir())]
    files = [(path, label) for path, label in files if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder} has no <class>/<image> file ({', '.join(sorted(SUFFIXES))})")
    return sorted(files, key=lambda file: file[0].name) if settings.by_record else files


def load_images(paths: Sequence[Path], size: int | str, channels: int | str) -> Array:
    """Return uint8 images [N, H, W] or [N, H, W, 3]. Raises DataError if sizes differ and ``size`` is "native"."""
    images: list[Image.Image] = []
    for path in paths:
        images.append(_open(path, size))
        if images[-1].size != images[0].size:
            raise DataError(
                f"{path} is {_px(images[-1])}, but {os.path.relpath(paths[0], path.parent)} is {_px(images[0])}; "
                "set data.size to resize them"
            )
    colours = channels == 3 or (channels == "native" and any(image.mode == "RGB" for image in images))
    return np.stack([np.asarray(image.convert("RGB" if colours else "L")) for image in images])


def _open(path: Path, size: int | str) -> "Image.Image":
    """Return one image, grey ("L") or in colours ("RGB"), resized unless ``size`` is "native"."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = _eight_bits(file, path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    return image if size == "native" else image.resize((int(size), int(size)), Image.Resampling.BILINEAR)


def _eight_bits(file: "Image.Image", path: Path) -> "Image.Image":
    """Return the image with 8 bits per channel: the upper 8 bits of 16, where Pillow would clip at 255."""
    from PIL import Image

    if file.mode == "F":
        raise DataError(
            f"{path} has floating-point pixels of unknown range; save it with 8 or 16 bits, or use an .npz"
        )
    if file.mode.startswith("I"):
        return Image.fromarray((np.asarray(file).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return file.convert("L" if file.mode in GREY else "RGB")


def _px(image: "Image.Image") -> str:
    return f"{image.size[0]} x {image.size[1]} px"


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def learns(settings: DataSettings) -> frozenset[str]:
    """Unless size and channels are set, one file decides the size of all rows and whether they have colours."""
    return frozenset({"shape"}) if "native" in (settings.size, settings.channels) else frozenset()


ABOUT = "<path>/<silo>/<class>/* image files, or <path>/<silo>/{train,val,test}/<class>/*"
