"""What was read of an experiment's data and what was not, without a model and without training: ``fedtl data EXP``."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from fedtl.data import table
from fedtl.data.columns import columns_with_a_kind
from fedtl.data.dataset import SiloDataset
from fedtl.data.hidden import hides_labels
from fedtl.data.labels import has_label, label_numbers
from fedtl.data.prepare import stored_name
from fedtl.data.settings import DataSettings
from fedtl.experiment.config.known_tasks import check_in_memory
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_advice import recommendations
from fedtl.experiment.data_between import ShowProgress, between_silos
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.data_silo import UsedRows, kind_of_inputs, silo_rows, tested_on_training_rows
from fedtl.experiment.study import study_data
from fedtl.experiment.study_data import RowStores, StudyData
from fedtl.results.data_report import DataReport, SiloRows
from fedtl.simulation.shared_store import SharedStore


def data_report(
    experiment: Experiment, store: SharedStore, show: ShowProgress = lambda done, total, detail: None
) -> DataReport:
    """
    Return the report, for a person who may see the rows: under ``[privacy]``, too, it says what they hold. ``show``: is called
    with the silos that are done, their number, and what is being done. Raises ConfigError or DataError as training would.
    """
    check_in_memory(experiment, "fedtl data")
    stores = RowStores(store, store)
    schema = read_data_schema(experiment, lambda name: stores.stored(experiment.data, name), look=True)
    data = study_data(experiment, stores, schema)
    open_rows = experiment.model_copy(update={"privacy": None})
    notes = tuple(data_notes(open_rows, method_of(experiment.method), schema))
    silos = {name: _silo_rows(experiment, data, name) for name in schema.silos}
    between = between_silos(experiment.data, experiment.split_seed, data.stored, schema, show)
    common = {f"{one}, {other}": count for one, other, count in schema.common}
    near = {f"{one}, {other}": count for one, other, count in schema.near_common}
    report = DataReport(silos, common, between, notes=notes, near_common=near)
    return replace(report, recommendations=recommendations(report))


def _silo_rows(experiment: Experiment, data: StudyData, name: str) -> SiloRows:
    settings, raw, silo = experiment.data, data.stored(name), data.schema.silos[name]
    made, test = data.dataset(name), data.evaluation_set(name).test
    labelled = [part for part in (made.train, made.val) if len(part)]
    used = UsedRows(
        train=len(made.inputs),
        val=len(made.val),
        test=len(test),
        without_label=sum(int((~has_label(part)).sum()) for part in labelled) + made.hidden,
        units=made.train.unit_count if made.train.units is not None else None,
        trained=_rows_of_each(made),
        tested_on_training_rows=tested_on_training_rows(made.train.x.numpy(), test.x.numpy()),
    )
    known = made.has_labels if not settings.predicted.has_classes else not hides_labels(settings, name)
    kind = kind_of_inputs(raw, silo.shape, settings)
    rows = silo_rows(raw, used, silo.facts, kind, settings.task if known else None)
    if settings.predicted.per_pixel:
        rows = replace(rows, labels=images_of_each(label_numbers(raw.train.y, (), settings), settings))
    kinds = tuple(map(str, columns_with_a_kind(settings)))
    return replace(rows, kinds=kinds, ignored=tuple(_ignored(experiment, name)))


def images_of_each(masks: Tensor, settings: DataSettings) -> dict[str, int]:
    """Return the number of training images with a pixel of each class."""
    flat = masks.flatten(1)
    return {
        label: int((flat == number).any(1).sum())
        for number, label in enumerate(settings.predicted.outputs(()))
    }


def _rows_of_each(data: SiloDataset) -> dict[str, int]:
    """Return the number of training rows of each class that has any."""
    counts = {label: int((data.train.y == number).sum()) for number, label in enumerate(data.classes)}
    return {label: count for label, count in counts.items() if count}


def _ignored(experiment: Experiment, name: str) -> Iterator[str]:
    """Yield the columns of a silo's file that are neither inputs nor have another use."""
    settings = experiment.data
    if settings.source == "table" and settings.deal is None:
        yield from table.unused_columns(settings, stored_name(settings, name))
