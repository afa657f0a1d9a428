"""Guesses about rows in .npz files and in folders of images."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from fedtl._util.toml_text import Table
from fedtl.data import images, nifti, npz
from fedtl.data.image_files import is_image, load_images
from fedtl.data.labels import label_texts
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw
from fedtl.experiment.config.settings_file import validate
from fedtl.experiment.data_schema import looks_like_series
from fedtl.experiment.propose.column_facts import array_facts
from fedtl.experiment.propose.guess import Guess, listed
from fedtl.experiment.propose.inputs import SILOS, UNITS, is_named
from fedtl.experiment.propose.labels import MAX_CLASSES, task_of
from fedtl.experiment.propose.layout import Layout, Silos
from fedtl.experiment.propose.silos import guess_silos

FILES_LOOKED_AT = 200  # images of a folder, spread evenly, whose size is looked up
MAX_SIDE = 64  # pixels, to which images of several sizes are resized
AMOUNTS = 'if they are amounts, such as ages: task = "regression"; if they count something: "counts"'
SLICES = {"axis": "axial", "start": 0.25, "stop": 0.75, "every": 4}  # of a volume


def array_guesses(layout: Layout, given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield the guesses about .npz files. ``given``: what a person has set of [data]. Raises DataError."""
    names = {
        name.removeprefix("train_") for name in npz.array_names(layout.files[0]) if name.startswith("train_")
    }
    further = sorted(names - {"x", "y", "images", "labels"})
    unit = next((name for name in further if is_named(name, UNITS)), None)
    silo = next((name for name in further if is_named(name, SILOS)), None)
    own: Table = {
        "source": "npz",
        "path": str(layout.path),
        **{k: v for k, v in given.items() if k not in ("deal", "task")},
    }
    units = {"data.unit_column": unit} if unit and "unit_column" not in given else {}
    if unit and units:
        own["unit_column"] = unit
        yield Guess("unit", unit, f"the array train_{unit} says whose row each is", settings=units)
    if silo and layout.silos is Silos.ONE_SET and not given.keys() & {"silo_column", "deal"}:
        own["silo_column"] = silo
    raws = list(_read(layout, validate(DataSettings, own)))
    label = _label(raws, given)
    if own.get("silo_column"):
        why = f"the array train_{own['silo_column']} names them"
        yield Guess(
            "silos",
            f"{len(raws)}, by {own['silo_column']}",
            why,
            settings={"data.silo_column": own["silo_column"]},
        )
    else:
        names_of_files = [file.stem for file in layout.files]
        yield guess_silos(layout, names_of_files, given, {**label.settings, **units}, counts=_counts(raws))
    yield label
    yield from _inputs([raw.train.x for raw in raws], given)


def _counts(raws: Sequence[Raw]) -> list[int]:
    """Return how many rows each label has, of all silos together; of masks, how many rows there are."""
    if raws[0].train.y.ndim > 1:
        return [sum(len(raw.train.y) for raw in raws)]
    return list(Counter(label for raw in raws for label in label_texts(raw.train.y)).values())


def _inputs(arrays: Sequence[Array], given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield how arrays [N, ...] of each silo are read, where they are series, or images of several sizes."""
    x = arrays[0]
    if x.ndim == 3 and x.dtype != np.uint8 and looks_like_series(x.shape[1:]):
        if "sequence" not in given:
            steps, channels = x.shape[1:]
            doubt = (
                f"if it is the other way round, --set data.sequence.channels_first=true ({channels} steps)"
            )
            why = "numbers of a shape that pictures do not have"
            yield Guess(
                "inputs",
                f"series of {steps} steps with {channels} channels",
                why,
                doubt,
                {"data.sequence": {}},
            )
    elif x.ndim > 2 and not given.keys() & {"sequence", "kind"}:
        yield from _sizes({one.shape[1:] for one in arrays}, given)


def _sizes(shapes: set[tuple[int, ...]], given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield size and channels, where images of these shapes, [H, W] or [H, W, C], do not have them in common."""
    sides = sorted({shape[:2] for shape in shapes})
    if len(sides) > 1 and "size" not in given:
        size = max(8, min(MAX_SIDE, median_low([min(side) for side in sides])))
        smallest, largest = (f"{side[1]} x {side[0]}" for side in (sides[0], sides[-1]))
        doubt = "a larger size shows more and takes longer; pictures that are not square are stretched"
        why = f"the images have {len(sides)} sizes, from {smallest} to {largest} px"
        yield Guess("size", f"{size} px", why, doubt, {"data.size": size})
    if len({len(shape) for shape in shapes}) > 1 and "channels" not in given:
        yield Guess(
            "channels", "3", "some images are grey and some have colours", settings={"data.channels": 3}
        )


def _read(layout: Layout, settings: DataSettings) -> Iterator[Raw]:
    """Yield the stored rows of each silo, or of the set that is to be dealt."""
    if layout.silos is Silos.ONE_SET and not settings.silo_column:
        yield npz.read(settings, layout.path.stem)
        return
    for name in npz.silos(settings):
        yield npz.read(settings, name)


def _label(raws: Sequence[Raw], given: Mapping[str, Any]) -> Guess:
    """Return the task. Whole numbers that belong to images are classes, however many there are."""
    if "task" in given:
        return Guess("label", f"train_y, task {given['task']}", "as set")
    facts = array_facts("train_y", [raw.train.y for raw in raws])
    if raws[0].train.x.ndim > 2 and facts.whole:
        return Guess(
            "label",
            "train_y, task classification",
            f"it holds {len(facts.values)} whole numbers ({listed(facts.values, 5)})",
            AMOUNTS if len(facts.values) > MAX_CLASSES else "",
        )
    task, why, doubt = task_of(facts)
    settings = {"data.task": task} if task != "classification" else {}
    return Guess("label", f"train_y, task {task}", why, doubt, settings)


def picture_guesses(layout: Layout, given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield the guesses about folders that name the classes of the images in them. Raises DataError."""
    silos = guess_silos(layout, (), given, {}, counts=_images_by_class(layout.path))
    if layout.silos is Silos.ONE_SET:
        yield silos
    else:
        names = images.silos(validate(DataSettings, {"source": "images", "path": str(layout.path)}))
        yield Guess(
            "silos", f"{len(names)}, one a folder: {listed(names)}", "its folders have folders of images"
        )
    doubt = (
        "if these folders are silos, put a folder for each class into each"
        if layout.silos is Silos.ONE_SET
        else ""
    )
    yield Guess(
        "label", "the folder of an image, task classification", "folders of images name their class", doubt
    )
    yield from size_guesses(layout, given)


def _images_by_class(path: Path) -> list[int]:
    """Return how many images each class of one set has."""
    home = path / "train" if (path / "train").is_dir() else path
    return [sum(map(is_image, folder.rglob("*"))) for folder in sorted(home.iterdir()) if folder.is_dir()]


def size_guesses(layout: Layout, given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield size, channels and slices of image files, where the files do not have them in common. Raises DataError."""
    files = [file for file in sorted(layout.path.rglob("*")) if is_image(file)]
    files = files[:: max(1, len(files) // FILES_LOOKED_AT)]
    volumes = any(map(nifti.is_nifti, files)) and not given.keys() & {"kind", "slices"}
    if volumes:
        doubt = "only every fourth slice of the middle half is read; or --set data.kind=volumes for a model of three axes"
        yield Guess(
            "inputs", "axial slices of volumes", "NIfTI files hold volumes", doubt, {"data.slices": SLICES}
        )
    settings = validate(
        DataSettings, {"source": "images", **({"slices": SLICES} if volumes else {}), **given}
    )
    shapes = {load_images([file], settings).x.shape[1:] for file in files}
    if settings.kind != "volumes":
        yield from _sizes(shapes, given)
