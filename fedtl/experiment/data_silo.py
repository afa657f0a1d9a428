"""What one silo's stored rows hold, in an experiment and at an institution: counts, labels, missing cells, copies."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedtl._util.counted import counted
from fedtl.data.facts import RowFacts, can_tell_rows_apart, row_hashes
from fedtl.data.image_sizes import sizes_before
from fedtl.data.labels import label_texts, without_label
from fedtl.data.preprocess import seen_as_signed
from fedtl.data.settings import DataSettings, declared_range
from fedtl.data.source import Array, Raw, finite_numbers, parts_of
from fedtl.results.data_report import SiloRows
from fedtl.tasks.registry import TASKS

GREY, RGB = 1, 3


@dataclass(frozen=True)
class UsedRows:
    """The rows of one silo that are used, as ``SiloRows`` counts them."""

    train: int
    val: int
    test: int
    without_label: int
    units: int | None
    trained: Mapping[str, int]
    tested_on_training_rows: int


def silo_rows(raw: Raw, used: UsedRows, facts: RowFacts, inputs: str, task: str | None) -> SiloRows:
    """Return the record of a silo. ``inputs``: how the model sees one; ``task``: of the labels, None where they must not be seen."""
    named = task is not None and TASKS[task].has_classes
    return SiloRows(
        stored=sum(len(part.y) for part in parts_of(raw).values()),
        train=used.train,
        val=used.val,
        test=used.test,
        inputs=inputs,
        without_label=used.without_label,
        units=used.units,
        labels=_counted(raw.train.y) if named else {},
        trained=used.trained,
        values=_range(raw.train.y) if task is not None and not named and raw.train.y.ndim == 1 else {},
        columns=raw.columns,
        unread=raw.unread,
        missing=_missing(raw),
        constant=facts.constant,
        counting=facts.counting,
        running=facts.running,
        copies=dict(facts.copies),
        sentinels={column: value for column, value, _ in facts.sentinels},
        thousands={column: part for column, _, part in facts.thousands},
        decisive=dict(facts.decisive),
        repeated=facts.repeated,
        tested_on_training_rows=used.tested_on_training_rows,
        near_leaked=facts.near_leaked,
        together=facts.together,
    )


def kind_of_inputs(raw: Raw, shape: tuple[int, ...], settings: DataSettings) -> str:
    """Return how the model sees an input: "12 columns", or "RGB images of 64 x 64 px, 0..255"."""
    if len(shape) == 1:
        return counted(shape[0], "column")
    if len(shape) == 2:
        return f"series of {shape[1]} steps with {shape[0]} channels, scaled by channel"
    channels, *sides = shape
    kind = {GREY: "grey images", RGB: "RGB images"}.get(channels, f"images of {channels} channels")
    kind = "volumes" if len(sides) == 3 else kind
    before = sizes_before(raw, settings)
    resized = f", resized from {before} px" if before else ""
    return f"{kind} of {' x '.join(map(str, sides))} px, {_values(raw.train.x, settings)}{resized}"


def _values(x: Array, settings: DataSettings) -> str:
    """Return which values images have, and how they are scaled."""
    if declared := declared_range(settings):
        return "{:g}..{:g} as -1..1 (data.pixel_range)".format(*declared)
    if seen_as_signed(x, settings):
        return f"0..{np.iinfo(x.dtype).max}"
    return "numbers, not scaled" if settings.scale == "none" else "numbers, scaled by channel"


def tested_on_training_rows(train: Array, test: Array) -> int:
    """Return how many test rows have the inputs of a training row."""
    if not len(train) or not can_tell_rows_apart(train):
        return 0
    seen = frozenset(row_hashes(train))
    return sum(row in seen for row in row_hashes(test))


def _counted(y: Array) -> dict[str, int]:
    return dict(sorted(Counter(label_texts(y[~without_label(y)])).items()))


def _range(y: Array) -> Mapping[str, float]:
    values = finite_numbers(y)
    values = values[~np.isnan(values)]
    if not len(values):
        return {}
    figures = {"low": values.min(), "high": values.max(), "mean": values.mean(), "std": values.std()}
    return {key: float(value) for key, value in figures.items()}


def _missing(raw: Raw) -> dict[str, int]:
    """Return the number of missing cells of the training rows by column, of those that have any."""
    if raw.train.x.ndim != 2:
        return {}
    counts = np.isnan(finite_numbers(raw.train.x)).sum(0)
    return {name: int(count) for name, count in zip(raw.columns, counts, strict=True) if count}
