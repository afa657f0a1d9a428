"""Image files in folders: ``<path>/<silo>/<class>/*`` or ``<path>/<silo>/{train,val,test}/<class>/*``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.formats import counted_suffixes, is_hidden
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif"}
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
    unread = _unread(home, splits)
    paths = [path for labelled in files.values() for path, _ in labelled]
    images = load_images(
        paths, settings.size, settings.channels
    )  # together, so that all parts have one shape
    parts: dict[str, Part] = {}
    for split, labelled in files.items():
        parts[split] = Part(images[: len(labelled)], np.array([label for _, label in labelled]))
        images = images[len(labelled) :]
    return Raw(parts["train"], parts.get("val"), parts.get("test"), unread=unread)


def _files(folder: Path, settings: DataSettings) -> list[tuple[Path, str]]:
    """
    Return each image file with its class. With ``by_record`` they are in the order of the files' names, so that a row's
    position does not depend on its class.
    """
    files: list[tuple[Path, str]] = []
    for label in _folders(folder):
        own = [(path, label) for path in sorted((folder / label).iterdir()) if _is_image(path)]
        others = _other_files(folder / label)
        if not own and others and not settings.by_record:
            raise DataError(
                f"{folder / label}: none of its {len(others)} files is an image that fedtl reads ({_kinds(others)}); fedtl reads "
                f"{', '.join(sorted(SUFFIXES))} files that lie in the folder itself; convert them, or move the folder away"
            )
        files += own
    if not files:
        raise DataError(f"{folder} has no <class>/<image> file ({', '.join(sorted(SUFFIXES))})")
    return sorted(files, key=lambda file: file[0].name) if settings.by_record else files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not is_hidden(path)


def _other_files(folder: Path) -> list[Path]:
    """Return what lies in a class folder and is not read: files of other kinds, and all files of folders below."""
    below = (path for path in sorted(folder.rglob("*")) if path.is_file() and not is_hidden(path))
    return [path for path in below if not _is_image(path) or path.parent != folder]


def _kinds(files: Sequence[Path]) -> str:
    """Return how many files of each kind are not read: "3 .txt, 1 .png in folders below"."""
    images = [path for path in files if _is_image(path)]
    others = [path for path in files if not _is_image(path)]
    parts = [counted_suffixes(others)] if others else []
    return ", ".join([*parts, *([f"{counted_suffixes(images)} in folders below"] if images else [])])


def _unread(home: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each reason why files of a silo are not read, with their number."""
    lines: list[str] = []
    for parent in [home / split for split in splits] or [home]:
        for label in _folders(parent):
            if others := _other_files(parent / label):
                lines.append(f"{len(others)} files of {parent.name}/{label} are not read ({_kinds(others)})")
            elif not any(_is_image(path) for path in (parent / label).iterdir()):
                lines.append(f"{parent.name}/{label} has no file")
        if outside := [path for path in sorted(parent.iterdir()) if _is_image(path)]:
            lines.append(f"{len(outside)} images of {parent.name} are not in a class folder and are not read")
    if splits and (beside := [folder for folder in _folders(home) if folder not in splits]):
        lines.append(f"the folders {', '.join(beside)} beside {', '.join(splits)} are not read")
    return tuple(lines)


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
    from PIL import Image, ImageOps

    try:
        # By a stream: by a path, Pillow 13 maps an uncompressed TIFF that is to be turned with the wrong width.
        with path.open("rb") as stream, Image.open(stream) as file:
            if (
                count := getattr(file, "n_frames", 1)
            ) > 1 and file.format != "MPO":  # a photograph with a preview
                raise DataError(
                    f"{path} holds {count} images, and fedtl reads one a file; save each as a file"
                )
            file.load()
            ImageOps.exif_transpose(file, in_place=True)  # as every viewer shows it
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
