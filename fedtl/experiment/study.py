"""An experiment with its data described and its model built: all that a process needs to work on it. Trains nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from fedtl._util.randomness import address
from fedtl.data.dataset import SiloDataset
from fedtl.data.prepare import EvaluationSet
from fedtl.errors import ConfigError
from fedtl.experiment.config.adapter_checks import adapter_notes
from fedtl.experiment.config.resolve import (
    check_scores,
    method_of,
    model_of,
    training_of,
    wired,
    with_adapters_of,
)
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_schema import DataSchema, read_data_schema
from fedtl.experiment.few_labels import check_unlabelled, label_notes, no_silo_has_labels
from fedtl.experiment.head_in_rounds import with_settled_head
from fedtl.experiment.initial_weights import FirstWeights, read_first_weights
from fedtl.experiment.notes import alone_note, sampling_notes, sharing_notes, training_notes, wire_notes
from fedtl.experiment.pixels import pixel_notes, with_pixels
from fedtl.experiment.pretrain import statistics_of_noise
from fedtl.experiment.public_inputs import check_server, public_inputs, public_notes
from fedtl.experiment.silo_models import check_silo_models, silo_model_notes, with_silo_models
from fedtl.experiment.study_data import RowStores, StudyData
from fedtl.methods.base import Method, own_labels
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.label_free import made_with_labels
from fedtl.methods.restrict import train_only
from fedtl.methods.ridge import RidgeHead, head_names
from fedtl.models.dp_norm import convert_state
from fedtl.models.net import ModelSpec, stages
from fedtl.models.registry import with_private_norms
from fedtl.models.roles import Role
from fedtl.models.scaled import with_input_scale
from fedtl.models.state import State
from fedtl.privacy import taint
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Label
from fedtl.results.run import UsedFile
from fedtl.simulation import choose
from fedtl.simulation.engine import WorkerContext
from fedtl.simulation.shared_store import SharedStore
from fedtl.simulation.temp_folder import adopt_folder
from fedtl.training.augment import check_augmentation
from fedtl.training.silo import Silo
from fedtl.training.trainer import OwnStart, Trainer, trainer_at


@dataclass(frozen=True)
class Study:
    """
    ``notes``: what a reader of the result should know about the model, its initial weights and the rows. ``guarantees``: by
    silo, once ``with_guarantees`` has made them. ``first``: the provenance labels of the initial weights, by tensor. ``files``: what a
    run begins from other than the rows.
    """

    experiment: Experiment
    trainer: Trainer
    silo_data: StudyData
    notes: tuple[str, ...] = ()
    guarantees: Mapping[str, PrivacyGuarantee] = field(default_factory=dict)
    first: Mapping[str, Label] = field(default_factory=dict)
    files: tuple[UsedFile, ...] = ()

    @property
    def method(self) -> Method:
        return self.trainer.method

    @property
    def schema(self) -> DataSchema:
        return self.silo_data.schema

    @property
    def training(self) -> list[str]:
        """The names of the silos that train."""
        return training_silos(self.experiment, self.schema)

    def data(self, name: str) -> SiloDataset:
        """Return what a silo learns from. Raises DataError."""
        return self.silo_data.dataset(name)

    def evaluation_set(self, name: str) -> EvaluationSet:
        """Return a silo's test rows. Raises DataError."""
        return self.silo_data.evaluation_set(name)

    @property
    def source(self) -> "StudySource":
        return StudySource(self.experiment, self.silo_data)

    def silo(self, name: str, data: SiloDataset) -> Silo:
        """Return a silo as it is before its first round."""
        trainer = trainer_at(self.trainer, name)
        _, local = trainer.partition.split(trainer.initial(data.width))
        labels = taint.untrained_labels(trainer.partition.roles)
        return Silo(name, data, local, self.secret(name), self.guarantees.get(name), labels)

    def secret(self, name: str) -> bytes:
        """Return a silo's secret. It follows from the seed, because a simulation has no attacker to hide it from."""
        return address("secret", self.experiment.seed, name).to_bytes(8, "big")


@dataclass(frozen=True)
class StudySource:
    """A study without its trainer, so that it can be sent to another process."""

    experiment: Experiment
    silo_data: StudyData

    def study(self, trainer: Trainer) -> Study:
        return Study(self.experiment, trainer, self.silo_data)


def served_silos(study: Study) -> list[str]:
    """Return the names of the silos that train or hold unlabelled rows and get a model: by any method those with labels."""
    if not made_with_labels(study.method) or no_silo_has_labels(study.experiment, study.training):
        return study.training
    return [name for name in study.training if name not in study.experiment.data.unlabelled]


def training_silos(experiment: Experiment, schema: DataSchema) -> list[str]:
    """Return the names of the silos that train: all but late and public ones."""
    others = {*experiment.data.late, *experiment.model.pretrain_on}
    return [name for name in schema.silos if name not in others]


def study_data(experiment: Experiment, stores: RowStores, schema: DataSchema) -> StudyData:
    own = own_labels(method_of(experiment.method))
    return StudyData(experiment.data, experiment.split_seed, own, schema, stores)


def build(
    experiment: Experiment,
    raws: SharedStore,
    prepared: SharedStore,
    device: str = "cpu",
    start: State | None = None,
    schema: DataSchema | None = None,
) -> Study:
    """
    Return the study. ``raws`` and ``prepared`` take the silos' rows, as stored and as prepared. ``start``: pretrained
    tensors. Raises ConfigError, DataError or ModelError.
    """
    stores = RowStores(raws, prepared)
    schema = schema or read_data_schema(experiment, lambda name: stores.stored(experiment.data, name))
    asked, model = experiment.model, with_pixels(experiment.model, schema.shape, schema.pixels)
    experiment = experiment.model_copy(update={"model": model})
    spec, first, alone = _model_and_start(experiment, schema, start)
    training = training_of(experiment.train, experiment.model.freeze)
    method, on, dtype = _method(experiment), torch.device(device), experiment.model.dtype
    public = public_inputs(experiment, schema)
    trainer = Trainer(spec, method, training, on, first.state, dtype, alone, public)
    trainer = with_settled_head(trainer, experiment, schema, training_silos(experiment, schema))
    trainer = with_silo_models(experiment, schema.shape, trainer)
    check_silo_models(experiment, schema)
    check_augmentation(
        training.augment, schema.shape, schema.eight_bits is not False, experiment.data.predicted.per_pixel
    )
    check_unlabelled(experiment, method, training_silos(experiment, schema))
    check_server(experiment, trainer)
    _check_roles(experiment, trainer)
    _check_head(experiment, trainer, schema.width)
    if experiment.privacy is not None and not (experiment.model.weights or experiment.model.pretrain_on):
        statistics = statistics_of_noise(trainer, schema.shape, schema.width)
        trainer = replace(trainer, start={**first.state, **statistics})
    choose.check_engine(experiment.engine, trainer)
    provenance = {**taint.untrained_labels(trainer.partition.roles), **(first.labels or {})}
    data = study_data(experiment, stores, schema)
    notes = (*first.notes, *pixel_notes(asked, model, schema.shape), *_notes(experiment, trainer, schema))
    return Study(experiment, trainer, data, notes, first=provenance)


def _notes(experiment: Experiment, trainer: Trainer, schema: DataSchema) -> Iterator[str]:
    yield from sharing_notes(experiment, trainer)
    yield from alone_note(trainer.method, training_silos(experiment, schema))
    yield from training_notes(experiment)
    yield from wire_notes(experiment, trainer)
    yield from sampling_notes(experiment, trainer)
    yield from data_notes(experiment, trainer.method, schema)
    yield from label_notes(experiment, trainer.method, training_silos(experiment, schema))
    yield from public_notes(experiment, trainer)
    yield from silo_model_notes(experiment)
    yield from adapter_notes(experiment)


def make_worker_context(source: StudySource, device: str, start: State | None) -> WorkerContext:
    """Build a worker's context, in the worker. On another machine the row stores are that machine's own."""
    stores = source.silo_data.stores
    for store in (stores.raw, stores.prepared):
        adopt_folder(store.folder)
    study = build(source.experiment, stores.raw, stores.prepared, device, start, source.silo_data.schema)
    return WorkerContext(study.trainer, study.data)


def _method(experiment: Experiment) -> Method:
    """Return the method. Under privacy, exact statistics are computed only after the last release, or not at all."""
    method = train_only(method_of(experiment.method), map(Role, experiment.train.roles))
    method = wired(method, experiment.wire, experiment.method.name)
    if experiment.privacy is None:
        return method
    after = experiment.privacy.statistics == "local-after"
    return replace(method, exact_statistics=ExactStatistics.ALWAYS if after else ExactStatistics.NEVER)


def _check_head(experiment: Experiment, trainer: Trainer, width: int) -> None:
    """Raise ConfigError where a head is to be fitted in closed form that is not one linear layer."""
    late = bool(experiment.data.late) and experiment.data.late_head == "ridge"
    if late or any(isinstance(step, RidgeHead) for step in trainer.method.finish):
        head_names(trainer.initial(width))


def _check_roles(experiment: Experiment, trainer: Trainer) -> None:
    """Raise ConfigError where ``train.roles`` leaves nothing to train in a phase, or nothing to share."""
    if not (wanted := experiment.train.roles):
        return
    method, model = experiment.method.name, experiment.model.name
    weights = {name for name, _ in trainer.net(1).named_parameters()}
    if any(weights.isdisjoint(trainer.loop.movable(phase.train)) for phase in trainer.method.phases):
        raise ConfigError(
            f"train.roles = {wanted}: a phase of method {method!r} would train nothing of {model}; add a role that it trains"
        )
    if method_of(experiment.method).shared and not any(map(trainer.partition.leaves, weights)):
        raise ConfigError(
            f"train.roles = {wanted}: method {method!r} would share no weight of {model}; add a role that it shares"
        )


def head_labels(experiment: Experiment, schema: DataSchema) -> list[tuple[str, ...]]:
    """Return the labels of each training silo's head; () where they are not exclusive classes."""
    if not experiment.data.predicted.exclusive:
        return [()]
    if not own_labels(method_of(experiment.method)):
        return [schema.union]
    return [schema.silos[name].classes for name in training_silos(experiment, schema)]


def _first_weights(
    experiment: Experiment, spec: ModelSpec, schema: DataSchema, start: State | None
) -> FirstWeights:
    """Return the initial weights: from ``model.weights``, pretrained ones, or none, which means random ones."""
    if experiment.model.weights in ("", "pretrained"):
        return FirstWeights("", start or {}, {})
    path = Path(experiment.model.weights)
    first = read_first_weights(path, spec, schema.width).for_labels(path, head_labels(experiment, schema))
    if experiment.privacy is None:
        return first
    return replace(first, notes=[*first.notes, *first.privacy_notes()])


def _model_and_start(
    experiment: Experiment, schema: DataSchema, start: State | None
) -> tuple[ModelSpec, FirstWeights, OwnStart | None]:
    """
    Return the model, its first weights, and how the model that a silo trains alone begins, where it is another. Adapters come
    last: no file of first weights has any.
    """
    spec = _model_spec(experiment, schema.shape)
    first = _first_weights(experiment, spec, schema, start)
    with_adapters = partial(
        with_adapters_of, experiment.model, shape=schema.shape, roles=experiment.train.roles
    )
    if experiment.privacy is None:
        return with_adapters(spec), first, None
    ordinary, alone = spec.net(schema.width), OwnStart(with_adapters(spec), first.state)
    state, labels = convert_state(ordinary, first.state), convert_state(ordinary, first.labels or {})
    private = with_adapters(_private_spec(experiment, spec, schema.shape))
    return private, replace(first, state=state, labels=labels), alone


def _private_spec(experiment: Experiment, spec: ModelSpec, shape: tuple[int, ...]) -> ModelSpec:
    spec = with_private_norms(spec)
    return with_input_scale(spec, shape) if experiment.data.scale == "dp" else spec


def _model_spec(experiment: Experiment, shape: tuple[int, ...]) -> ModelSpec:
    """Return the model. Raises ConfigError where ``model.freeze`` or ``method.cut`` is more than the stages of the body."""
    model = experiment.model
    spec = model_of(model, shape, experiment.seed)
    check_scores(spec, experiment.data, model.name)
    count = len(stages(spec.body))
    for key, value in (("model.freeze", model.freeze), ("method.cut", experiment.method.cut or 0)):
        if value > count:
            raise ConfigError(
                f"{key} = {value}, but the body of {model.name} has {count} stages; set at most {count}"
            )
    return spec
