"""
Masks of a segmentation: one number for each pixel. Image files lie in ``<path>/<silo>/images`` and their masks, of the same name, in
``<path>/<silo>/masks``; or both below ``<path>/<silo>/{train,val,test}``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedtl._util.counted import counted
from fedtl.data import pictures
from fedtl.data.formats import is_hidden
from fedtl.data.image_files import load_images
from fedtl.data.pixels import resized_masks
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

SPLITS = ("train", "val", "test")
IMAGES, MASKS = "images", "masks"


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's images and masks. Raises DataError."""
    home = Path(settings.path) / name
    splits = [split for split in SPLITS if (home / split).is_dir()]
    if splits and "train" not in splits:
        raise DataError(f"{home} has a folder {splits[0]} but none named train; add one")
    folders = {split: home / split for split in splits} or {"train": home}
    pairs = {split: _pairs(folder) for split, folder in folders.items()}
    images = load_images([image for own in pairs.values() for image, _ in own], settings)
    x = images.x
    parts: dict[str, Part] = {}
    for split, own in pairs.items():
        parts[split] = Part(x[: len(own)], _masks(own, settings))
        x = x[len(own) :]
    every = [] if settings.by_record else [pair for own in pairs.values() for pair in own]
    unread = tuple(line for folder in folders.values() for line in _unread(folder))
    return Raw(
        *(parts["train"], parts.get("val"), parts.get("test")),
        unread=unread,
        sizes=images.sizes,
        remarks=tuple(_turned(every)),
        palette=_palette(every),
    )


def _palette(pairs: Sequence[tuple[Path, Path]]) -> dict[int, tuple[int, ...]]:
    """Return the colour of each number in masks with a palette. Raises DataError where one number has two colours."""
    palette: dict[int, tuple[int, ...]] = {}
    first: dict[int, Path] = {}
    for _, path in pairs:
        for number, colour in pictures.palette_of(path).items():
            if palette.setdefault(number, colour) != colour:
                raise DataError(
                    f"{path}: the number {number} has the colour {colour} in its palette, and {palette[number]} in that of {first[number].name}; the "
                    "numbers are read and not their colours: save all masks with one palette"
                )
            first.setdefault(number, path)
    return palette


def _turned(pairs: Sequence[tuple[Path, Path]]) -> Iterator[str]:
    """Yield a line where images are turned as their camera says, and their masks are not."""
    turned = [image for image, mask in pairs if pictures.is_turned(image) and not pictures.is_turned(mask)]
    if turned:
        yield (
            f"{counted(len(turned), 'image')} such as {turned[0].name} are turned as the camera says (EXIF), and their masks are not; where a mask was "
            "drawn on the image as it is stored, they do not fit"
        )


def holds_masks(path: str, name: str) -> bool:
    """Return whether a silo's folder has folders of images and masks, and not of classes."""
    home = Path(path) / name
    return any((folder / IMAGES).is_dir() and (folder / MASKS).is_dir() for folder in (home, home / "train"))


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return each image with its mask, in the order of their names. Raises DataError."""
    images, masks = (_files(folder / kind) for kind in (IMAGES, MASKS))
    lonely = sorted(images.keys() ^ masks.keys())
    if lonely:
        has, lacks = (IMAGES, MASKS) if lonely[0] in images else (MASKS, IMAGES)
        raise DataError(
            f"{folder}: {has}/{lonely[0]} has no file of that name in {lacks}, and {len(lonely)} of "
            f"{len(images.keys() | masks.keys())} names are in one folder only; add or remove the files"
        )
    if not images:
        raise DataError(
            f"{folder} has no picture ({', '.join(sorted(pictures.SUFFIXES))}) in {IMAGES} and {MASKS}; a segmentation needs both"
        )
    return [(images[name], masks[name]) for name in sorted(images)]


def _files(folder: Path) -> dict[str, Path]:
    """Return the pictures in a folder by name without suffix. Raises DataError where two have one name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in pictures.SUFFIXES or is_hidden(path):
            continue
        if path.stem in found:
            raise DataError(
                f"{folder} has two files {path.stem}: {found[path.stem].name} and {path.name}; remove one"
            )
        found[path.stem] = path
    return found


def _masks(pairs: Sequence[tuple[Path, Path]], settings: DataSettings) -> Array:
    """Return the masks [N, H, W], resized. Raises DataError."""
    rows: list[Array] = []
    for image, path in pairs:
        mask = pictures.read_mask(path)
        if mask.shape != (sides := pictures.sides(image)):
            raise DataError(
                f"{path} is {_px(mask.shape)}, but its image is {_px(sides)}; a mask needs the size of its image"
            )
        rows.append(resized_masks(mask[None], settings.size)[0])
    return np.stack(rows)  # of one size, as their images are


def _px(sides: Sequence[int]) -> str:
    return f"{sides[1]} x {sides[0]} px"


def _unread(folder: Path) -> Iterator[str]:
    """Yield a line for each kind of file that is not read, with their number."""
    for kind in (IMAGES, MASKS):
        read_files = set(_files(folder / kind).values())
        others = [
            path for path in (folder / kind).iterdir() if path not in read_files and not is_hidden(path)
        ]
        if others:
            yield f"{counted(len(others), 'file')} of {folder.name}/{kind} not read, because not a picture"
    if unread := [
        path for path in folder.iterdir() if path.name not in (IMAGES, MASKS) and not is_hidden(path)
    ]:
        yield f"not read: {', '.join(sorted(path.name for path in unread)[:3])}{', ...' * (len(unread) > 3)} next to {folder.name}/{IMAGES} and {MASKS}"
