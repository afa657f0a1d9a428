"""
Image files: in folders ``<path>/<silo>/<class>/*`` or ``<path>/<silo>/{train,val,test}/<class>/*``; with ``data.deal`` also
``<path>/<class>/*``; or listed by a CSV table (``data.manifest``). Pictures, DICOM and NIfTI; of a volume, images across one axis (``data.slices``) or the whole (``data.kind``).
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np

from fedtl._util.counted import counted
from fedtl.data import manifest, masks
from fedtl.data.formats import counted_suffixes, is_hidden
from fedtl.data.image_files import SUFFIXES, Images, is_image, load_images
from fedtl.data.masks import SPLITS
from fedtl.data.pictures import SUFFIXES as SUFFIXES_OF_PICTURES
from fedtl.data.pictures import sides
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.data.spacings import spacings_of
from fedtl.data.streamed import StreamedImages
from fedtl.data.unlabelled import is_unlabelled
from fedtl.errors import DataError


@dataclass(frozen=True)
class Labelled:
    """The files of one part, with a label for each [N] and, where it is known, whose file it is [N]."""

    paths: Sequence[Path]
    y: Array
    units: Array | None = None


def silos(settings: DataSettings) -> Sequence[str]:
    home = Path(settings.path)
    if not home.is_dir():
        raise DataError(f"data.path: {settings.path} is not a folder; images must be in a folder")
    if settings.manifest:
        return manifest.silos(settings)
    if settings.deal is not None and is_one_set(home):
        return [home.name]
    if not (names := _folders(home)):
        raise DataError(f"data.path: {settings.path} has no folder; each silo needs one")
    return names


def is_one_set(home: Path) -> bool:
    """Return whether the folder itself has the folders of classes, or of parts, that a silo has otherwise."""
    names = _folders(home)
    return "train" in names or any(is_image(path) for name in names for path in (home / name).iterdir())


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows; grey images become RGB only if others of the silo have colours. Raises DataError."""
    if settings.predicted.per_pixel:
        return masks.read(settings, name)
    labelled, unread = (_of_manifest if settings.manifest else _of_folders)(settings, name)
    paths = [path for part in labelled.values() for path in part.paths]
    properties: Mapping[str, Array]
    if settings.stream:
        parts = dict(_streamed(labelled, StreamedImages.of(paths, settings)))
        sizes = {} if settings.by_record else _sizes(paths, settings)
        properties = {}
    else:
        images = load_images(paths, settings)  # together, so that all parts have one shape
        parts, sizes = dict(_parts(labelled, images, settings)), images.sizes
        properties = _of_training_rows(images, labelled)
    return Raw(
        *(parts["train"], parts.get("val"), parts.get("test")),
        unread=unread,
        sizes=sizes,
        spacings=spacings_of(paths, settings),
        properties={} if settings.by_record else properties,
    )


def _of_training_rows(images: Images, labelled: Mapping[str, Labelled]) -> dict[str, Array]:
    """Return the properties of the files of the training rows, for each row [N]."""
    splits = list(labelled)
    start = sum(len(labelled[split].paths) for split in splits[: splits.index("train")])
    own = slice(start, start + len(labelled["train"].paths))
    return {name: np.repeat(one[own], images.counts[own]) for name, one in images.properties.items()}


def _sizes(paths: Sequence[Path], settings: DataSettings) -> Mapping[tuple[int, ...], int]:
    """Return from the headers of pictures how many have which sides; nothing where ``data.size`` resizes none."""
    if settings.size == "native":
        return {}
    return Counter(sides(path) for path in paths if path.suffix.lower() in SUFFIXES_OF_PICTURES)


def _parts(
    labelled: Mapping[str, Labelled], images: Images, settings: DataSettings
) -> Iterator[tuple[str, Part]]:
    """Yield each part with its rows. The slices of a file have its label, and belong to one unit."""
    x, counts = images.x, np.array(images.counts)
    for split, files in labelled.items():
        own, counts = counts[: len(files.paths)], counts[len(files.paths) :]
        rows, x = x[: own.sum()], x[own.sum() :]
        units = files.units
        if units is None and settings.slices is not None:
            units = np.array([os.path.relpath(path, settings.path) for path in files.paths])
        yield split, Part(rows, np.repeat(files.y, own), None if units is None else np.repeat(units, own))


def _streamed(labelled: Mapping[str, Labelled], images: StreamedImages) -> Iterator[tuple[str, Part]]:
    start = 0
    for split, files in labelled.items():
        own = images.take(np.arange(start, start + len(files.paths)))
        start += len(files.paths)
        yield split, Part(cast(Array, own), files.y, files.units)


def _of_manifest(settings: DataSettings, name: str) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    raw, paths, unread = manifest.read(settings, name)
    parts = {"train": raw.train, "val": raw.val, "test": raw.test}
    return {
        split: Labelled([paths[number] for number in manifest.file_numbers(part.x)], part.y, part.units)
        for split, part in parts.items()
        if part is not None
    }, unread


def _of_folders(settings: DataSettings, name: str) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    path = Path(settings.path)
    home = path if settings.deal is not None and is_one_set(path) else path / name
    if not home.is_dir():
        raise DataError(f"data.path: {settings.path} has no folder {name}")
    splits = [split for split in SPLITS if (home / split).is_dir()]
    if splits and "train" not in splits:
        raise DataError(f"{home} has a folder {splits[0]} but none named train; add one")
    by_name = settings.by_record or is_unlabelled(settings, name)
    folders = {split: home / split for split in splits} or {"train": home}
    files = {split: _files(folder, settings, by_name) for split, folder in folders.items()}
    labelled = {
        split: Labelled(
            [path for path, _ in found],
            np.array([label for _, label in found]),
            _units_of_names(split, found, settings) if by_name else None,
        )
        for split, found in files.items()
    }
    return labelled, _unread(home, splits)


def _units_of_names(split: str, files: Sequence[tuple[Path, str]], settings: DataSettings) -> Array | None:
    """
    Return whose file each is [N], where slices of a file stay together or, with ``by_record``, files of one name: their order follows
    from their contents, so one would decide where another goes. A path would say the class, and units are drawn in the order of their names.
    """
    _, which = np.unique([path.name for path, _ in files], return_inverse=True)
    alike = settings.by_record and which.max(initial=-1) + 1 < len(files)
    if settings.slices is None and not alike:
        return None
    return np.array([f"{split}/{number:09}" for number in (which if alike else range(len(files)))])


def _files(folder: Path, settings: DataSettings, by_name: bool) -> list[tuple[Path, str]]:
    """
    Return each image file with its class. ``by_name``: in the order of the files' names, and of their contents where two have one
    name, so that a row's position does not depend on its class.
    """
    files: list[tuple[Path, str]] = []
    for label in _folders(folder):
        own = [(path, label) for path in sorted((folder / label).iterdir()) if _is_row(path, settings)]
        others = _other_files(folder / label)
        if not own and others and not settings.by_record:
            raise DataError(
                f"{folder / label}: none of its {len(others)} files is an image that fedtl reads ({_kinds(others)}); fedtl reads "
                f"{', '.join(SUFFIXES)} files that lie in the folder itself; convert them, or move the folder away"
            )
        files += own
    if not files:
        raise DataError(
            f"{folder} has no <class>/<image> file ({', '.join(SUFFIXES)}); a CSV table can list them: set data.manifest"
        )
    if not by_name:
        return files
    count = Counter(path.name for path, _ in files)
    alike = {path: sha256(path.read_bytes()).digest() for path, _ in files if count[path.name] > 1}
    return sorted(files, key=lambda file: (file[0].name, alike.get(file[0], b"")))


def _is_row(path: Path, settings: DataSettings) -> bool:
    """
    Return whether a file is a row. With ``by_record`` so is each one without a suffix: were it one only where it begins as DICOM does,
    its content would move all rows after it.
    """
    nameless = settings.by_record and not path.suffix and path.is_file() and not is_hidden(path)
    return nameless or is_image(path)


def _other_files(folder: Path) -> list[Path]:
    """Return what lies in a class folder and is not read: files of other kinds, links to nothing, and all files of folders below."""
    below = (path for path in sorted(folder.rglob("*")) if not path.is_dir() and not is_hidden(path))
    return [path for path in below if not is_image(path) or path.parent != folder]


def _kinds(files: Sequence[Path]) -> str:
    """Return how many files of each kind are not read: "3 .txt, 1 .png in folders below, 1 .png that cannot be opened"."""
    there = [path for path in files if path.is_file()]
    groups = {
        "": [path for path in there if not is_image(path)],
        " in folders below": [path for path in there if is_image(path)],
        " that cannot be opened, such as a link to nothing": [path for path in files if not path.is_file()],
    }
    return ", ".join(f"{counted_suffixes(group)}{where}" for where, group in groups.items() if group)


def _unread(home: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each reason why files of a silo are not read, with their number."""
    lines: list[str] = []
    for parent in [home / split for split in splits] or [home]:
        for label in _folders(parent):
            if others := _other_files(parent / label):
                lines.append(
                    f"{counted(len(others), 'file')} of {parent.name}/{label} not read ({_kinds(others)})"
                )
            elif not any(is_image(path) for path in (parent / label).iterdir()):
                lines.append(f"{parent.name}/{label} has no file")
        if outside := [path for path in sorted(parent.iterdir()) if is_image(path)]:
            lines.append(f"{counted(len(outside), 'image')} of {parent.name} in no class folder, not read")
    if splits and (unread := [folder for folder in _folders(home) if folder not in splits]):
        lines.append(f"the folders {', '.join(unread)} next to {', '.join(splits)} are not read")
    return tuple(lines)


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry))


def learns(settings: DataSettings) -> frozenset[str]:
    """
    Unless size and channels are set, one file decides the size of all rows and whether they have colours; a volume has none. A
    row's cell of the split column decides whether it is trained on.
    """
    native = settings.size == "native" or (settings.channels == "native" and settings.kind != "volumes")
    return frozenset(({"shape"} if native else set()) | ({"split"} if settings.split_column else set()))


ABOUT = (
    "image files (also DICOM and NIfTI): <path>/<silo>/<class>/*, <path>/<silo>/{train,val,test}/<class>/*, or listed by a CSV table "
    "(data.manifest); with masks in <path>/<silo>/{images,masks}/*"
)
