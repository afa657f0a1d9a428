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
    if not home.is_dir() or not (found := _folders(home)):
        raise DataError(f"data.path: no folder of a silo in {settings.path}")
    return found


def read(settings: DataSettings, name: str) -> Raw:
    """Grey files stay grey unless another of the silo has colours. Raises DataError."""
    home = Path(settings.path) / name
    splits = [split for split in SPLITS if (home / split).is_dir()]
    if splits and "train" not in splits:
        raise DataError(f"{home} has a folder {splits[0]} and none named train")
    found = {split: _files(home / split, settings) for split in splits} or {"train": _files(home, settings)}
    files = [path for listed in found.values() for path, _ in listed]
    images = load(files, settings.size, settings.channels)  # together, so that all parts have one shape
    parts: dict[str, Part] = {}
    for split, listed in found.items():
        parts[split] = Part(images[: len(listed)], np.array([kind for _, kind in listed]))
        images = images[len(listed) :]
    return Raw(parts["train"], parts.get("val"), parts.get("test"))


def _files(folder: Path, settings: DataSettings) -> list[tuple[Path, str]]:
    """Each image file with its class; record by record in the order of the files' names, which is not that of classes."""
    files = [(path, kind) for kind in _folders(folder) for path in sorted((folder / kind).iterdir())]
    files = [(path, kind) for path, kind in files if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder} holds no <class>/<image> file ({', '.join(sorted(SUFFIXES))})")
    return sorted(files, key=lambda file: file[0].name) if settings.by_record else files


def load(paths: Sequence[Path], size: int | str, channels: int | str) -> Array:
    """uint8 [N, H, W] or [N, H, W, 3]. Raises DataError where sizes differ and none is asked for."""
    read: list[Image.Image] = []
    for path in paths:
        read.append(_open(path, size))
        if read[-1].size != read[0].size:
            raise DataError(
                f"{path} is {_px(read[-1])} and {os.path.relpath(paths[0], path.parent)} {_px(read[0])}; "
                "set data.size to resize them"
            )
    colours = channels == 3 or (channels == "native" and any(image.mode == "RGB" for image in read))
    return np.stack([np.asarray(image.convert("RGB" if colours else "L")) for image in read])


def _open(path: Path, size: int | str) -> "Image.Image":
    """One file, grey ("L") or in colours ("RGB"), resized where a size is asked for."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = _eight_bits(file, path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    return image if size == "native" else image.resize((int(size), int(size)), Image.Resampling.BILINEAR)


def _eight_bits(file: "Image.Image", path: Path) -> "Image.Image":
    """Pillow would clip 16-bit grey values at 255; here the upper 8 bits stay, as of colours."""
    from PIL import Image

    if file.mode == "F":
        raise DataError(f"{path} holds floating-point pixels without a range; write 8 or 16 bits, or an .npz")
    if file.mode.startswith("I"):
        return Image.fromarray((np.asarray(file).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return file.convert("L" if file.mode in GREY else "RGB")


def _px(image: "Image.Image") -> str:
    return f"{image.size[0]} x {image.size[1]} px"


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def learns(settings: DataSettings) -> frozenset[str]:
    """Without them set, one file decides whether all rows have one size, and whether they have colours."""
    return frozenset({"shape"}) if "native" in (settings.size, settings.channels) else frozenset()


ABOUT = "<path>/<silo>/<class>/* image files, or <path>/<silo>/{train,val,test}/<class>/*"
