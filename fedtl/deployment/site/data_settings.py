"""``[data]`` of silo.toml as the settings by which a site reads its rows: under a plan, and before there is one."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedtl.data.checks import check_rows
from fedtl.data.constants import read_constants_file
from fedtl.data.image_files import holds_volumes
from fedtl.data.masks import holds_masks
from fedtl.data.registry import DATA
from fedtl.data.settings import NAMES_COLUMNS, SCALES, DataSettings, InputSettings, RowSettings, data_settings
from fedtl.data.source import Raw, parts_of
from fedtl.deployment.site.home import Home
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.checks import data_contradictions
from fedtl.experiment.config.known_tasks import SEGMENTATION

MOST_MASK_VALUES = 256  # different numbers in masks without data.mask_values
ANY_SIZE = 32  # px; a plan may resize images, so that files of several sizes are not a mistake before there is a plan


def settings_to_train(home: Home, agreed: DataSettings, classes: Sequence[str]) -> DataSettings:
    """
    Return the settings for a plan: the site's rows, the plan's inputs, and ``classes``. Whether the site's labels are used follows
    from silo.toml alone.

    Only a table selects its columns by name; the columns of other sources are put in the plan's order once they are read.
    """
    here, inputs = home.settings.data, agreed
    if here.source != "table":
        nothing = InputSettings()
        inputs = agreed.model_copy(update={key: getattr(nothing, key) for key in NAMES_COLUMNS})
    bounds = (here.bounds or agreed.bounds) if here.scale == "dp" else {}
    declared: dict[str, Any] = {"classes": list(classes), "bounds": bounds}
    slices = agreed.slices if here.source == "images" else None
    declared |= {"pixel_range": here.pixel_range or agreed.pixel_range, "slices": here.slices or slices}
    void = agreed.mask_void if here.mask_void is None else here.mask_void
    declared |= {"mask_values": here.mask_values or agreed.mask_values, "mask_void": void}
    rows = _with_absolute_paths(home).model_copy(update=declared)
    own = _names_here(home)
    unlabelled = [*(own if here.unlabelled else ()), *(name for name in agreed.unlabelled if name not in own)]
    # site_rows refuses what silo.toml does not allow
    missing = "inputs" if "inputs" in (here.missing_labels, agreed.missing_labels) else "refuse"
    return data_settings(rows, inputs).model_copy(
        update={"unlabelled": unlabelled, "missing_labels": missing}
    )


def _names_here(home: Home) -> tuple[str, ...]:
    """Return the site's name and, where it is another, the name of its rows in the source."""
    return tuple(dict.fromkeys((home.settings.name, home.settings.data.silo or home.settings.name)))


def read_without_plan(home: Home) -> Raw:
    """
    Return the site's rows, checked for everything that no plan accepts. What a plan decides is not checked: the task, the
    columns and their categories, the size of images. Raises ConfigError or DataError.
    """
    private = home.settings.policy.privacy
    rows = _with_absolute_paths(home)
    settings = data_settings(rows, inputs_without_plan(rows))
    if private is not None and private.unit != "record":
        settings = settings.model_copy(update={"unit_column": private.unit})
    if home.settings.data.unlabelled:
        settings = settings.model_copy(update={"unlabelled": list(_names_here(home))})
    name = home.settings.data.silo or home.settings.name
    if _says_masks(settings, name):
        settings = _with_masks(settings)
    for mistake in data_contradictions(settings):
        raise ConfigError(mistake)
    if settings.scale not in SCALES:
        read_constants_file(Path(settings.scale))
    source = DATA[settings.source]
    # Of a table the cells as they are, text included; images as they are read to train.
    cells = private is not None or settings.source != "images"
    by_record = settings.model_copy(update={"by_record": cells})
    raw = _read(by_record, name)
    if private is not None:
        return check_rows(raw, by_record, name, source.missing_values)
    if has_masks(raw):
        return check_rows(raw, settings_of_masks(raw, settings, name), name, source.missing_values)
    # Any finite number can be a label of a regression, and any text one of a classification.
    task = "regression" if raw.train.y.dtype.kind in "uif" else "classification"
    return check_rows(raw, settings.model_copy(update={"task": task}), name, source.missing_values)


def _read(settings: DataSettings, name: str) -> Raw:
    """Return the rows, with masks also where only an array shows that labels are such. Raises DataError."""
    source = DATA[settings.source]
    try:
        return source.read(settings, name)
    except DataError:
        if settings.source == "npz" and settings.task != SEGMENTATION:
            with suppress(DataError):
                return source.read(_with_masks(settings), name)
        raise


def _says_masks(settings: DataSettings, name: str) -> bool:
    """Return whether silo.toml, or the folders of the images, say that labels are masks."""
    if settings.mask_values or settings.mask_void is not None:
        return True
    return settings.source == "images" and not settings.manifest and holds_masks(settings.path, name)


def _with_masks(settings: DataSettings) -> DataSettings:
    """Return the settings for masks, with classes that stand in for those of a plan where silo.toml names none."""
    classes = settings.classes or [*map(str, settings.mask_values or (0, 1))]
    return settings.model_copy(update={"task": SEGMENTATION, "classes": classes})


def has_masks(raw: Raw) -> bool:
    """Return whether the labels are masks."""
    return raw.train.y.ndim > 1


def settings_of_masks(raw: Raw, settings: DataSettings, name: str) -> DataSettings:
    """
    Return the settings for images with masks: with the classes that silo.toml names, or else one for each value that a mask may hold
    (``mask_values``) or, where silo.toml does not say it, holds. Raises DataError for masks of too many values.
    """
    found = np.unique(np.concatenate([np.unique(part.y) for part in parts_of(raw).values()]))
    values = settings.mask_values or [
        int(one) for one in found if one != settings.mask_void and one == int(one)
    ]
    if len(values) > MOST_MASK_VALUES:
        raise DataError(
            f"{name}: the masks hold {len(values)} different numbers; a mask has one number for each class: correct the masks, or set "
            "data.mask_values"
        )
    classes = settings.classes if len(settings.classes) == len(values) else list(map(str, values))
    return settings.model_copy(update={"task": SEGMENTATION, "classes": classes, "mask_values": values})


def inputs_without_plan(rows: RowSettings) -> InputSettings:
    """Return how images are read before there is a plan: of one size, and NIfTI files without ``data.slices`` as volumes."""
    if rows.source != "images":
        return InputSettings()
    whole = rows.slices is None and holds_volumes(rows.path)
    return InputSettings(size=ANY_SIZE, kind="volumes" if whole else "auto")


def _with_absolute_paths(home: Home) -> RowSettings:
    here = home.settings.data
    path = str(home.at(here.path)) if here.path else ""
    scale = here.scale if here.scale in SCALES else str(home.at(here.scale))
    return here.model_copy(update={"path": path, "scale": scale})
