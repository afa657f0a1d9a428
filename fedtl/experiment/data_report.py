"""What was read of an experiment's data and what was not, without a model and without training: ``fedtl data EXP``."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from fedtl.data import table
from fedtl.data.checks import without_label
from fedtl.data.facts import can_tell_rows_apart, row_hashes
from fedtl.data.hidden import hides_labels
from fedtl.data.labels import has_label, label_texts
from fedtl.data.pixels import is_pixels
from fedtl.data.preprocess import Inputs
from fedtl.data.source import Array, Raw, finite_numbers, parts_of
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.study import study_data
from fedtl.experiment.study_data import RowStores, StudyData
from fedtl.results.data_report import DataReport, SiloRows
from fedtl.simulation.shared_store import SharedStore

GREY, RGB = 1, 3


def data_report(experiment: Experiment, store: SharedStore) -> DataReport:
    """
    Return the report, for a person who may see the rows: under ``[privacy]``, too, it says what they hold. Raises ConfigError
    or DataError as training would.
    """
    stores = RowStores(store, store)
    schema = read_data_schema(experiment, lambda name: stores.stored(experiment.data, name), look=True)
    data = study_data(experiment, stores, schema)
    open_rows = experiment.model_copy(update={"privacy": None})
    notes = tuple(data_notes(open_rows, method_of(experiment.method), schema))
    return DataReport(
        {name: _silo_rows(experiment, data, name) for name in schema.silos},
        {f"{one}, {other}": count for one, other, count in schema.common},
        notes,
    )


def _silo_rows(experiment: Experiment, data: StudyData, name: str) -> SiloRows:
    settings, raw, silo = experiment.data, data.stored(name), data.schema.silos[name]
    made, test = data.dataset(name), data.evaluation_set(name).test
    facts = silo.facts
    labelled = [part for part in (made.train, made.val) if len(part)]
    unlabelled = sum(int((~has_label(part)).sum()) for part in labelled) + made.hidden
    return SiloRows(
        stored=sum(len(part.y) for part in parts_of(raw).values()),
        train=len(made.inputs),
        val=len(made.val),
        test=len(test),
        inputs=_kind(raw, silo.shape, data.inputs(name)),
        without_label=unlabelled,
        units=made.train.unit_count if made.train.units is not None else None,
        labels={} if settings.task == "regression" or hides_labels(settings, name) else _counted(raw.train.y),
        values=_range(raw.train.y) if settings.task == "regression" and made.has_labels else {},
        columns=raw.columns,
        ignored=tuple(_ignored(experiment, name)),
        unread=silo.unread,
        missing=_missing(raw),
        constant=facts.constant,
        counting=facts.counting,
        running=facts.running,
        copies=dict(facts.copies),
        sentinels={column: value for column, value, _ in facts.sentinels},
        decisive=dict(facts.decisive),
        repeated=facts.repeated,
        tested_on_training_rows=_tested_on_training_rows(made.train.x.numpy(), test.x.numpy()),
    )


def _kind(raw: Raw, shape: tuple[int, ...], inputs: Inputs) -> str:
    """Return how the model sees an input: "12 columns", or "RGB images of 64 x 64 px, 0..255"."""
    if len(shape) == 1:
        return f"{shape[0]} columns"
    if len(shape) == 2:
        return f"series of {shape[1]} steps with {shape[0]} channels, scaled by channel"
    channels, *sides = shape
    kind = {GREY: "grey images", RGB: "RGB images"}.get(channels, f"images of {channels} channels")
    kind = "volumes" if len(sides) == 3 else kind
    return f"{kind} of {' x '.join(map(str, sides))} px, {_values(raw.train.x, inputs)}"


def _values(x: Array, inputs: Inputs) -> str:
    """Return which values images have, and how they are scaled."""
    if inputs.pixel_range:
        return "{:g}..{:g} as -1..1 (data.pixel_range)".format(*inputs.pixel_range)
    if is_pixels(x) and not inputs.mean:
        return f"0..{np.iinfo(x.dtype).max}"
    return "numbers, scaled by channel" if inputs.mean else "numbers, not scaled"


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
    """Return the number of missing cells of the training rows by column or channel, of those that have any."""
    if not raw.columns:
        return {}
    x = raw.train.x
    counts = np.isnan(finite_numbers(x.reshape(-1, x.shape[-1]))).sum(0)
    return {name: int(count) for name, count in zip(raw.columns, counts, strict=True) if count}


def _ignored(experiment: Experiment, name: str) -> Iterator[str]:
    """Yield the columns of a silo's file that are neither inputs nor have another use."""
    settings = experiment.data
    if settings.source == "table" and settings.deal is None:
        yield from table.unused_columns(settings, name)


def _tested_on_training_rows(train: Array, test: Array) -> int:
    if not len(train) or not can_tell_rows_apart(train):
        return 0
    seen = frozenset(row_hashes(train))
    return sum(row in seen for row in row_hashes(test))
