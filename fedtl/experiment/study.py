"""An experiment with its data looked at and its model built: all that a process needs to work."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedtl._util.randomness import address
from fedtl.data import prepare
from fedtl.data.dataset import SiloDataset
from fedtl.data.prepare import EvaluationSet, Prepared
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Raw
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of, privacy_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import DataSchema, read_data_schema
from fedtl.experiment.initial_weights import from_file
from fedtl.experiment.pretrain import statistics_of_noise
from fedtl.experiment.privacy_plan import LedgerLocation, guarantee, trained
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.base import Method
from fedtl.methods.sets import MODEL, set_of
from fedtl.models.dp_norm import convert_state
from fedtl.models.net import ModelSpec, stages
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.scaled import with_input_scale
from fedtl.models.state import State, size_in_bytes
from fedtl.privacy import taint as labels
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Label
from fedtl.results.plan import StatePart, TensorRow
from fedtl.simulation import choose
from fedtl.simulation.engine import WorkerContext
from fedtl.simulation.shared_store import SharedStore
from fedtl.simulation.temp_folder import adopt_folder
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Study:
    """An experiment with its data looked at and its model built: all that a room needs to work."""

    experiment: Experiment
    method: Method
    schema: DataSchema
    trainer: Trainer
    shelf: SharedStore
    raws: SharedStore
    notes: tuple[str, ...] = ()
    guarantees: Mapping[str, PrivacyGuarantee] = field(default_factory=dict)
    first: Mapping[str, Label] = field(default_factory=dict)  # where the first weights come from, by tensor

    @property
    def training(self) -> list[str]:
        """The silos that train."""
        aside = {*self.experiment.data.late, *self.experiment.model.pretrain_on}
        return [name for name in self.schema.silos if name not in aside]

    def data(self, name: str) -> SiloDataset:
        """What a silo learns from. Raises DataError."""
        return self._prepared(name, "data")

    def exam(self, name: str) -> EvaluationSet:
        """A silo's test rows. Raises DataError."""
        return self._prepared(name, "exam")

    def inputs(self, name: str) -> Inputs:
        """How a silo's inputs were made. Raises DataError."""
        return self._prepared(name, "inputs")

    def trained(self, name: str) -> dict[str, Label]:
        """Where each tensor at a silo comes from after the last round."""
        private = self.experiment.privacy is not None
        return trained(self.trainer, self.first, privacy_of(self.experiment, name) if private else None)

    def _prepared(self, name: str, part: str) -> Any:
        """One part of a silo's data: prepared once, whoever asks first, and then mapped from the shelf."""
        if not self.shelf.has(f"{name}.{part}"):
            prepared = self.prepared(name, reader(self.raws, self.experiment.data)(name))
            for key in ("data", "exam", "inputs"):
                self.shelf.get_or_make(f"{name}.{key}", partial(getattr, prepared, key))
        return self.shelf.get(f"{name}.{part}")

    def prepared(self, name: str, raw: Raw) -> Prepared:
        """A silo's stored rows as its data; anew each time. Raises DataError."""
        settings, its = self.experiment.data, self.schema.silos[name]
        own = self.method.head_is_local
        labels, trained = (its.classes, its.trained) if own else (self.schema.union, self.schema.trained)
        return prepare.prepare_silo(raw, settings, name, self.experiment.seed, labels, trained)

    @property
    def source(self) -> "StudySource":
        return StudySource(self.experiment, self.schema, self.shelf, self.raws)

    def silo(self, name: str, data: SiloDataset) -> Silo:
        """A silo before its first round; its secret is the seed's, for a simulation has nobody to protect."""
        _, local = self.trainer.partition.split(self.trainer.initial(data.width))
        return Silo(
            name,
            data,
            local,
            self.secret(name),
            self.guarantees.get(name),
            labels.public(self.trainer.partition.roles),
        )

    def secret(self, name: str) -> bytes:
        return address("secret", self.experiment.seed, name).to_bytes(8, "big")

    def promised(self, folder: RunFolder) -> "Study":
        """With each training silo's promise, kept in the folder; as it is where nothing is private."""
        if self.experiment.privacy is None:
            return self
        for text in self.unknown():
            raise ConfigError(text)
        return replace(
            self,
            guarantees={name: self.guarantee(name, folder.path / "silos" / name) for name in self.training},
        )

    def unknown(self) -> Iterator[str]:
        """Tables ``[silo.<name>]`` of silos that do not train: a line each."""
        for name in sorted(set(self.experiment.silo) - set(self.training)):
            yield f"silo.{name}: no silo of that name trains; there are {', '.join(self.training[:12])}"

    def guarantee(self, name: str, home: Path, data: SiloDataset | None = None) -> PrivacyGuarantee:
        """What a silo promises for this experiment, for its own data or for other ``data``. Raises ConfigError."""
        settings, data = privacy_of(self.experiment, name), data or self.data(name)
        place = LedgerLocation(home / "ledger.sqlite", name, self.secret(name))
        if settings.statistics == "auto":
            settings = settings.model_copy(update={"statistics": "public"})
        its = guarantee(settings, self.trainer, data, self.experiment.rounds, self.experiment.seed, place)
        if not (count := self.experiment.audit.canaries):
            return its
        coins = address("canaries", self.experiment.seed, name, key=self.secret(name))
        return replace(its, canaries=Canaries(count, coins, home / "canaries"))


def reader(raws: SharedStore, settings: DataSettings) -> Callable[[str], Raw]:
    """A silo's rows as they are stored; from its source the first time, from the shelf after that."""
    return lambda name: raws.get_or_make(f"{name}.raw", lambda: prepare.read_silo(settings, name))


def build(
    experiment: Experiment,
    raws: SharedStore,
    shelf: SharedStore,
    device: str = "cpu",
    start: State | None = None,
    seen: DataSchema | None = None,
) -> Study:
    """
    ``raws`` and ``shelf`` take the silos' rows, as they are stored and as they are prepared.

    Raises ConfigError, DataError or ModelError; nothing is trained yet.
    """
    seen = seen or read_data_schema(experiment, reader(raws, experiment.data))
    method = method_of(experiment.method)
    if experiment.privacy is not None:  # exact statistics are for use at home, after the last release
        after = experiment.privacy.statistics == "local-after"
        method = replace(method, exact_statistics="always" if after else "never")
    plan = _blueprint(experiment, seen.shape)
    notes: list[str] = []
    found = len(stages(plan.body))
    if experiment.model.freeze > found:
        raise ConfigError(
            f"model.freeze = {experiment.model.freeze}, but the body of {experiment.model.name} has {found} stages"
        )
    said: Mapping[str, Label] = {}
    if experiment.model.weights not in ("", "pretrained"):
        file = from_file(Path(experiment.model.weights), plan, len(seen.union) or 1)
        start, said, notes = file.state, file.labels or {}, file.notes
        if experiment.privacy is not None:
            notes += file.vouched()
    if experiment.privacy is not None:
        ordinary = plan.net(len(seen.union) or 1)
        plan, start, said = (
            _privately(experiment, plan, seen.shape),
            convert_state(ordinary, start or {}),
            convert_state(ordinary, said),
        )
    train = experiment.train
    training = TrainingConfig(**{**train.model_dump(), "freeze": experiment.model.freeze})
    trainer = Trainer(plan, method, training, torch.device(device), start or {}, experiment.model.dtype)
    if experiment.privacy is not None and not (experiment.model.weights or experiment.model.pretrain_on):
        start = {**(start or {}), **statistics_of_noise(trainer, seen.shape, len(seen.union) or 1)}
        trainer = replace(trainer, start=start)
    choose.check_engine(experiment.engine, trainer)
    first = {**labels.public(trainer.partition.roles), **said}
    return Study(experiment, method, seen, trainer, shelf, raws, tuple(notes), first=first)


@dataclass(frozen=True)
class StudySource:
    """Enough of a study to come by any silo's data in any process; without a bench."""

    experiment: Experiment
    schema: DataSchema
    shelf: SharedStore
    raws: SharedStore

    def study(self, trainer: Trainer) -> Study:
        return Study(
            self.experiment, method_of(self.experiment.method), self.schema, trainer, self.shelf, self.raws
        )


def make_worker_context(source: StudySource, device: str, start: State | None) -> WorkerContext:
    """A worker's workplace, built in the worker; on another machine the shelves are that machine's own."""
    for shelf in (source.raws, source.shelf):
        adopt_folder(shelf.folder)
    study = build(source.experiment, source.raws, source.shelf, device, start, source.schema)
    return WorkerContext(study.trainer, study.data)


def _privately(experiment: Experiment, plan: ModelSpec, shape: tuple[int, ...]) -> ModelSpec:
    plan = with_private_norms(plan)
    return with_input_scale(plan, shape) if experiment.data.scale == "dp" else plan


def _blueprint(experiment: Experiment, shape: tuple[int, ...]) -> ModelSpec:
    model = experiment.model
    return model_spec(model.name, shape, experiment.seed, pretrained=model.weights == "pretrained")


def parts_of(tensors: Sequence[TensorRow]) -> tuple[StatePart, ...]:
    """Return what the method keeps or sends in addition to the model, with the bytes of each part."""
    parts: dict[str, StatePart] = {}
    for tensor in tensors:
        if (name := set_of(tensor.name)) != MODEL:
            so_far = parts.get(name, StatePart(name, 0, tensor.leaves))
            parts[name] = replace(so_far, bytes=so_far.bytes + tensor.bytes)
    return tuple(parts.values())


def tensor_table(study: Study) -> tuple[TensorRow, ...]:
    """Return a row for every tensor of the model, and of what the method keeps in addition."""
    width = len(study.schema.union) or 1
    partition = study.trainer.partition
    planned = trained(study.trainer, study.first, study.experiment.privacy)
    return tuple(
        TensorRow(
            name=name,
            role=str(partition.roles[name]),
            shape=tuple(tensor.shape),
            bytes=size_in_bytes({name: tensor}),
            leaves=partition.leaves(name),
            label=str(planned[name]) if study.experiment.privacy else None,
        )
        for name, tensor in {**study.trainer.net(width).state_dict(), **study.trainer.initial(width)}.items()
    )
