"""Image files in folders: ``<path>/<silo>/<class>/*`` or ``<path>/<silo>/{train,val,test}/<class>/*``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedtl.data.raw import Part, Raw
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
SPLITS = ("train", "val", "test")


def silos(settings: DataSettings) -> Sequence[str]:
    found = _folders(Path(settings.path))
    if not found:
        raise DataError(f"data.path: no folder of a silo in {settings.path}")
    return found


def read(settings: DataSettings, name: str) -> Raw:
    """Grey files stay grey unless another of the silo has colours. Raises DataError."""
    home = Path(settings.path) / name
    if (home / "train").is_dir():
        parts = {split: _part(home / split, settings) for split in SPLITS if (home / split).is_dir()}
        return Raw(parts["train"], parts.get("val"), parts.get("test"))
    return Raw(_part(home, settings))


def _part(folder: Path, settings: DataSettings) -> Part:
    files = [(path, kind) for kind in _folders(folder) for path in sorted((folder / kind).iterdir())]
    files = [(path, kind) for path, kind in files if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder} holds no <class>/<image> file ({', '.join(sorted(SUFFIXES))})")
    return Part(load([path for path, _ in files], settings.size, settings.channels), np.array([kind for _, kind in files]))


def load(paths: Sequence[Path], size: int | str, channels: int | str) -> np.ndarray:
    """uint8 [N, H, W] or [N, H, W, 3]. Raises DataError where sizes differ and none is asked for."""
    from PIL import Image, UnidentifiedImageError

    read: list[Image.Image] = []
    for path in paths:
        try:
            with Image.open(path) as file:
                image = file.convert("L" if file.mode in ("1", "L", "I", "I;16", "F") else "RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error
        read.append(image if size == "native" else image.resize((int(size), int(size)), Image.Resampling.BILINEAR))
        if read[-1].size != read[0].size:
            raise DataError(
                f"{path} is {read[-1].size[0]} x {read[-1].size[1]} px and {paths[0].name} {read[0].size[0]} x "
                f"{read[0].size[1]}; set data.size to resize them"
            )
    mode = {1: "L", 3: "RGB"}.get(channels) if isinstance(channels, int) else None  # type: ignore[call-overload]
    mode = mode or ("RGB" if any(image.mode == "RGB" for image in read) else "L")
    return np.stack([np.asarray(image.convert(mode)) for image in read])


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


ABOUT = "<path>/<silo>/<class>/* image files, or <path>/<silo>/{train,val,test}/<class>/*"
