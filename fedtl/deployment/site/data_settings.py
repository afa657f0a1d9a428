"""``[data]`` of silo.toml as the settings by which a site reads its rows: under a plan, and before there is one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtl.data.checks import check_rows
from fedtl.data.constants import read_constants_file
from fedtl.data.image_files import holds_volumes
from fedtl.data.registry import DATA
from fedtl.data.settings import NAMES_COLUMNS, SCALES, DataSettings, InputSettings, RowSettings, data_settings
from fedtl.data.source import Raw
from fedtl.deployment.site.home import Home
from fedtl.errors import ConfigError
from fedtl.experiment.config.checks import data_contradictions

ANY_SIZE = (
    32  # px; a plan may resize images, so that files of several sizes are no mistake before there is a plan
)


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
    for mistake in data_contradictions(settings):
        raise ConfigError(mistake)
    if settings.scale not in SCALES:
        read_constants_file(Path(settings.scale))
    name = home.settings.data.silo or home.settings.name
    source = DATA[settings.source]
    by_record = settings.model_copy(update={"by_record": True})  # a table's cells as they are, text included
    raw = source.read(by_record, name)
    if private is not None:
        return check_rows(raw, by_record, name, source.missing_values)
    # Any finite number can be a label of a regression, and any text one of a classification.
    task = "regression" if raw.train.y.dtype.kind in "uif" else "classification"
    return check_rows(raw, settings.model_copy(update={"task": task}), name, source.missing_values)


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
