"""
Data sets of Hugging Face's ``datasets``: a folder that ``Dataset.save_to_disk`` wrote, or a set of the hub by its name
(``hub_sets``), dealt to silos or divided by a column; or a folder with one such folder for each silo.

A set with a column of images is read as images, any other as a table. Such a folder holds Arrow files, from which no code is run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedtl.data.frame import column_of, labels_of, rows_of_frame, units_of
from fedtl.data.hub_sets import NEEDED, is_hub_set, load_hub_set, set_name
from fedtl.data.pictures import of_eight_bits
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.data.unlabelled import is_unlabelled
from fedtl.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

ABOUT = 'folders that Dataset.save_to_disk wrote, one a silo or one dealt, or "hf-hub:owner/name": a column of images, or a table'
MARKS = ("dataset_dict.json", "state.json")  # of a folder that was written so
PARTS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
Parts = Mapping[str, Any]  # datasets.Dataset by the name of the part


def silos(settings: DataSettings) -> Sequence[str]:
    if is_hub_set(settings.path):
        name = set_name(settings.path).rpartition("/")[2]
        return _silos_in_set(settings, name) if settings.silo_column else [name]
    path = Path(settings.path)
    if is_saved(path):
        return _silos_in_set(settings, path.name) if settings.silo_column else [path.name]
    names = sorted(folder.name for folder in path.iterdir() if is_saved(folder)) if path.is_dir() else []
    if not names:
        raise DataError(
            f"data.path: {path} has no data set written by Dataset.save_to_disk of Hugging Face's datasets"
        )
    if settings.silo_column:
        raise DataError(
            f"data.path: {path} is a folder with one set for each silo, so remove data.silo_column"
        )
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. Raises DataError."""
    parts, unread = _parts_of_silo(settings, name)
    path = settings.path if is_one_set(settings) else f"{settings.path}/{name}"
    where = f"{path}, silo {name}" if settings.silo_column else str(path)
    frames = {key: _frame(part, settings) for key, part in parts.items()}
    chosen = {key: _rows_of_silo(one, settings, name, where) for key, one in frames.items()}
    if is_unlabelled(settings, name):  # whose labels may be missing
        settings = settings.model_copy(update={"missing_labels": "inputs"})
    if image := _image_column(parts, path):
        return _images(parts, frames, chosen, image, settings, where, unread)
    unread += tuple(
        f"the column {column} is not read: it holds {kind}" for column, kind in _others(parts["train"])
    )
    frames = {key: one.iloc[chosen[key]] for key, one in frames.items() if len(chosen[key])}
    if set(frames) <= {"train"}:
        raw = rows_of_frame(frames["train"], settings, where)
        return Raw(raw.train, raw.val, raw.test, raw.target, raw.target_test, raw.columns, unread)
    if key := next((key for key in ("split_column", "target_domain") if getattr(settings, key)), ""):
        raise DataError(f"{where} has the parts {', '.join(frames)} already; remove data.{key}")
    made = {key: rows_of_frame(one, settings, where) for key, one in frames.items()}
    own = {key: raw.train for key, raw in made.items()}
    return Raw(own["train"], own.get("val"), own.get("test"), columns=made["train"].columns, unread=unread)


def learns(settings: DataSettings) -> frozenset[str]:
    """A cell can decide which rows are trained on, and one image the size and the channels of all where these are not set."""
    parts, _ = _parts_of_silo(settings, next(iter(silos(settings))))
    learned = {"split"} if settings.target_domain or settings.split_column else set()
    native = "native" in (settings.size, settings.channels)
    return frozenset(learned | ({"shape"} if native and _image_column(parts, settings.path) else set()))


def is_saved(folder: Path) -> bool:
    """Return whether ``Dataset.save_to_disk`` wrote this folder."""
    return any((folder / mark).is_file() for mark in MARKS)


def training_frame(path: Path, settings: DataSettings) -> tuple["pd.DataFrame", bool]:
    """Return the columns of values of a set's training rows, and whether their inputs are images. Raises DataError."""
    parts, _ = _parts(_saved(path), str(path))
    return _frame(parts["train"], settings), bool(_image_column(parts, str(path)))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(NEEDED) from error
    return datasets


def is_one_set(settings: DataSettings) -> bool:
    """Return whether ``data.path`` is one set, and not a folder with one for each silo."""
    return is_hub_set(settings.path) or is_saved(Path(settings.path))


def _parts_of_silo(settings: DataSettings, name: str) -> tuple[Parts, tuple[str, ...]]:
    """Return the parts of the set that a silo's rows are in, as ``_parts`` does. Raises DataError."""
    if is_hub_set(settings.path):
        return _parts(load_hub_set(settings), settings.path)
    path = Path(settings.path)
    path = path if is_saved(path) else path / name
    return _parts(_saved(path), str(path))


def _saved(path: Path) -> Any:
    try:
        return _library().load_from_disk(str(path))
    except Exception as error:  # a damaged folder fails in as many ways as there are files in it
        reason = first_line(error)
        raise DataError(f"{path} cannot be read as a set of Hugging Face's datasets: {reason}") from error


def _parts(saved: Any, path: str) -> tuple[Parts, tuple[str, ...]]:
    """Return the parts of a set by our names, and a line for each that is not read. ``path``: for messages. Raises DataError."""
    library = _library()
    if not isinstance(saved, library.DatasetDict):
        return {"train": saved}, ()
    if "train" not in saved:
        raise DataError(f"{path} has the parts {', '.join(saved)}, but none named train; rename one")
    others = [name for name in saved if name not in PARTS]
    lines = tuple(f"the part {name} ({len(saved[name])} rows) is not read" for name in others)
    return {PARTS[name]: part for name, part in saved.items() if name in PARTS}, lines


def _image_column(parts: Parts, path: str) -> str:
    """Return the name of the column of images; "" without one. Raises DataError where there are two."""
    image = _library().Image
    names = [name for name, kind in parts["train"].features.items() if isinstance(kind, image)]
    if len(names) > 1:
        raise DataError(f"{path} has {len(names)} columns of images ({', '.join(names)}); remove all but one")
    return names[0] if names else ""


def _others(part: Any) -> list[tuple[str, str]]:
    """Return the columns of neither values nor class numbers, each with the kind of what it holds."""
    kinds = (_library().Value, _library().ClassLabel)
    return [
        (name, type(kind).__name__) for name, kind in part.features.items() if not isinstance(kind, kinds)
    ]


def _frame(part: Any, settings: DataSettings) -> "pd.DataFrame":
    """Return the columns of values, class numbers replaced by the names that the set gives them."""
    values = part.remove_columns([name for name, _ in _others(part)]).with_format("arrow")
    # Beside an empty cell, whole numbers would become floats, which rounds the numbers of other rows from 2^53 on.
    frame: pd.DataFrame = values[:].to_pandas(integer_object_nulls=settings.by_record)
    for name, kind in part.features.items():
        if isinstance(kind, _library().ClassLabel):
            names = dict(enumerate(kind.names))
            frame[name] = frame[name].map(names)  # -1, which stands for no label, becomes a missing value
    return frame


def _silos_in_set(settings: DataSettings, name: str) -> list[str]:
    names, path = set[str](), settings.path
    for part in _parts_of_silo(settings, name)[0].values():
        frame = _frame(part, settings)
        column = column_of(frame, settings.silo_column, path, "data.silo_column")
        if missing := int(column.isna().sum()):
            raise DataError(f"{path}: {missing} rows have no value in {settings.silo_column!r}; remove them")
        names |= set(map(str, column.unique()))
    return sorted(names)


def _rows_of_silo(frame: "pd.DataFrame", settings: DataSettings, name: str, where: str) -> Array:
    """Return the numbers of the silo's rows."""
    if not settings.silo_column:
        return np.arange(len(frame))
    column = column_of(frame, settings.silo_column, where, "data.silo_column")
    return np.flatnonzero(column.map(str) == name)


def _images(
    parts: Parts,
    frames: Mapping[str, "pd.DataFrame"],
    chosen: Mapping[str, Array],
    column: str,
    settings: DataSettings,
    where: str,
    unread: tuple[str, ...],
) -> Raw:
    rows = {key: part.select(chosen[key])[column] for key, part in parts.items() if len(chosen[key])}
    sides = Counter[tuple[int, ...]](
        (one.height, one.width) for images in rows.values() for one in images if one is not None
    )
    opened = {key: [_eight_bits(one, where, settings) for one in images] for key, images in rows.items()}
    every = [image for images in opened.values() for image in images]
    if len(sizes := {image.size for image in every}) > 1:
        raise DataError(f"{where}: images are of {len(sizes)} sizes; set data.size to resize them")
    native = settings.channels == "native"
    colours = settings.channels == 3 or (native and any(image.mode == "RGB" for image in every))
    made: dict[str, Part] = {}
    for key, images in opened.items():
        own = frames[key].iloc[chosen[key]]
        x = np.stack([np.asarray(image.convert("RGB" if colours else "L")) for image in images])
        made[key] = Part(x, labels_of(own, settings, where), units_of(own, settings, where))
    return Raw(made["train"], made.get("val"), made.get("test"), unread=unread, sizes=sides)


def _eight_bits(image: Any, where: str, settings: DataSettings) -> Any:
    """Return an image of PIL, turned as viewers show it, grey ("L") or in colours ("RGB"), and resized. Raises DataError."""
    from PIL import ImageOps

    if image is None or image.mode[0] in "IF":
        what = (
            "a row has no image"
            if image is None
            else f"an image has the mode {image.mode}, not 8 bits a channel"
        )
        raise DataError(f"{where}: {what}; remove or convert it")
    image = of_eight_bits(ImageOps.exif_transpose(image), where)
    if settings.size == "native":
        return image
    from PIL import Image

    return image.resize((int(settings.size), int(settings.size)), Image.Resampling.BILINEAR)
