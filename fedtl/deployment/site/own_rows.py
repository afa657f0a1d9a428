"""What an institution's own rows hold, for its steward: ``fedtl silo data``. Reads no plan, and nothing of it leaves the site."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedtl.data.facts import row_facts
from fedtl.data.labels import label_numbers, label_texts, without_label
from fedtl.data.parts import split_rows
from fedtl.data.prepare import input_shape
from fedtl.data.settings import DataSettings, data_settings
from fedtl.data.source import Part, Raw, parts_of
from fedtl.deployment.site.data_settings import (
    has_masks,
    inputs_without_plan,
    read_without_plan,
    settings_of_masks,
)
from fedtl.deployment.site.home import Home
from fedtl.experiment.data_advice import of_own_rows
from fedtl.experiment.data_folder import write_data
from fedtl.experiment.data_report import images_of_each
from fedtl.experiment.data_silo import UsedRows, kind_of_inputs, silo_rows, tested_on_training_rows
from fedtl.results.data_report import DataReport

MOST_CLASSES = 20  # more different whole numbers are taken for the values of a regression


def own_report(home: Home) -> DataReport:
    """Return what the rows of the site hold. Raises ConfigError or DataError."""
    raw, name = _with_numbers(read_without_plan(home)), home.settings.name
    settings = _settings(home, raw)
    hidden = home.settings.data.unlabelled
    facts, _ = row_facts(raw, settings, hidden)
    split, _ = split_rows(raw, settings, name, home.settings.data.split_seed)
    inputs = kind_of_inputs(raw, input_shape(raw, settings), settings)
    rows = silo_rows(
        raw, _used(split, settings, hidden), facts, inputs, settings.task if not hidden else None
    )
    if has_masks(raw):
        labels = images_of_each(label_numbers(raw.train.y, (), settings), settings)
        rows = replace(rows, labels=labels)
    return DataReport({name: rows}, recommendations=tuple(of_own_rows({name: rows})))


def write_own_report(home: Home, report: DataReport, folder: Path) -> Path:
    """Write the page and ``data.json`` and return the path of the page."""
    settings = (home.path / "silo.toml").read_text()
    return write_data(folder, report, settings, "silo.toml", sharing(home))


def sharing(home: Home) -> list[str]:
    """Return what of such facts may leave the site by its policy."""
    policy = home.settings.policy
    may = [
        *(["the number of training rows (share_row_count)"] if policy.share_row_count else []),
        *([f"the metrics {', '.join(policy.metrics)}"] if policy.metrics else []),
    ]
    left = (
        f"By [policy] of silo.toml, an approved study gets {' and '.join(may)}"
        if may
        else "By [policy] of silo.toml, a study gets no count and no metric"
    )
    return [f"Nothing of this page leaves {home.settings.name}. {left}."]


def _with_numbers(raw: Raw) -> Raw:
    """Return the rows with labels as numbers where all of them are numbers and too many for classes; a table's cells are text."""

    def as_numbers(part: Part) -> Part:
        return replace(part, y=np.where(without_label(part.y), "nan", part.y).astype(float))

    if has_masks(raw) or raw.train.y.dtype.kind in "uif" or len(np.unique(raw.train.y)) <= MOST_CLASSES:
        return raw
    try:
        numbers = {name: as_numbers(part) for name, part in parts_of(raw).items() if "target" not in name}
    except ValueError:
        return raw
    return replace(raw, train=numbers["train"], val=numbers.get("val"), test=numbers.get("test"))


def _settings(home: Home, raw: Raw) -> DataSettings:
    """Return the site's settings for the task that its labels suggest; a plan may decide otherwise."""
    numbers = raw.train.y.dtype.kind in "uif" and len(np.unique(raw.train.y)) > MOST_CLASSES
    task = "regression" if numbers else "classification"
    here = home.settings.data.model_copy(update={"path": str(home.at(home.settings.data.path))})
    settings = data_settings(here, inputs_without_plan(here).model_copy(update={"task": task}))
    if has_masks(raw):
        settings = settings_of_masks(raw, settings, home.settings.name)
    names = [home.settings.name] if home.settings.data.unlabelled else []
    return settings.model_copy(update={"unlabelled": names})


def _used(split: Raw, settings: DataSettings, hidden: bool) -> UsedRows:
    assert split.val is not None
    assert split.test is not None
    train, labelled = split.train, ~without_label(split.train.y)
    counted = settings.task == "classification" and not hidden
    return UsedRows(
        train=len(train.y),
        val=len(split.val.y),
        test=len(split.test.y),
        without_label=len(train.y) if hidden else int((~labelled).sum()),
        units=None if train.units is None else len(np.unique(train.units)),
        trained=dict(sorted(Counter(label_texts(train.y[labelled])).items())) if counted else {},
        tested_on_training_rows=tested_on_training_rows(train.x, split.test.x),
    )
