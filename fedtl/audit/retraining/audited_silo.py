"""
A silo before its first round, which is trained again and again with one thing changed: by the site's own code, on its own
rows, with a scratch ledger. Nothing that is trained here leaves the silo.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fedtl.data.dataset import SiloDataset
from fedtl.data.source import Raw
from fedtl.errors import SiloFailed
from fedtl.experiment.guarantees import silo_guarantee
from fedtl.experiment.study import Study
from fedtl.messages import Task, Update
from fedtl.methods.without_weight_terms import without_weight_terms
from fedtl.models.state import State
from fedtl.privacy import taint
from fedtl.privacy.budget import Budget
from fedtl.privacy.guarantee import PrivacyGuarantee, Releases
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training.config import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

UNLIMITED_EPSILON = 1e9  # an epsilon that no check exceeds
ZERO_LEARNING_RATE = 1e-30  # no float32 weight changes
Prepare = Callable[[Raw], tuple[SiloDataset, PrivacyGuarantee]]


@dataclass(frozen=True)
class AuditedSilo:
    """
    A silo to audit. ``secret``: the silo's own. ``raw``: its rows as they are stored; ``prepare`` turns stored rows into
    data and their guarantee, by the code that made ``data`` and ``guarantee``.
    """

    trainer: Trainer
    name: str
    data: SiloDataset
    guarantee: PrivacyGuarantee
    secret: bytes
    rounds: int
    seed: int
    raw: Raw
    prepare: Prepare

    def task(self, round: int = 1) -> Task:
        shared, _ = self.trainer.partition.split(self.trainer.initial(self.data.width))
        return Task("rehearsal", round, self.rounds, self.seed, shared)

    def fit(
        self,
        guarantee: PrivacyGuarantee,
        data: SiloDataset | None = None,
        trainer: Trainer | None = None,
        round: int = 1,
    ) -> tuple[Update, State]:
        """Train one round from the initial model; return the update and the silo's local state."""
        trainer, data = trainer or self.trainer, data or self.data
        _, local = trainer.partition.split(trainer.initial(data.width))
        silo = Silo(
            self.name, data, local, self.secret, guarantee, taint.untrained_labels(trainer.partition.roles)
        )
        return trainer.fit(silo, self.task(round)), silo.local

    def private_phases(self) -> list[int]:
        """The numbers of the phases that take private steps."""
        return [number for number, count in enumerate(self.guarantee.training.steps) if count]

    def steps(self, count: int) -> tuple[int, ...]:
        """The number of steps of each phase: ``count`` where it takes private steps, otherwise 0."""
        return tuple(count if planned else 0 for planned in self.guarantee.training.steps)

    def frozen_trainer(self) -> Trainer:
        """The trainer with a learning rate of almost 0 and no terms on weights: every step starts from the same weights."""
        freeze = self.trainer.training.freeze
        training = TrainingConfig(optimizer="sgd", lr=ZERO_LEARNING_RATE, momentum=0.0, freeze=freeze)
        method = without_weight_terms(self.trainer.method)
        return replace(self.trainer, method=method, training=training)


def silo_of_study(study: Study, name: str) -> AuditedSilo:
    """A silo of a simulation."""
    guarantee, experiment = study.guarantees[name], study.experiment

    def prepare(stored: Raw) -> tuple[SiloDataset, PrivacyGuarantee]:
        data = study.silo_data.prepare(name, stored).data
        return data, silo_guarantee(study, name, guarantee.account.path.parent, data)

    return AuditedSilo(
        trainer=study.trainer,
        name=name,
        data=study.data(name),
        guarantee=guarantee,
        secret=study.secret(name),
        rounds=experiment.rounds,
        seed=experiment.seed,
        raw=study.silo_data.stored(name),
        prepare=prepare,
    )


@contextmanager
def scratch_guarantee(guarantee: PrivacyGuarantee) -> Iterator[PrivacyGuarantee]:
    """The guarantee with a scratch ledger and a scratch folder for canaries."""
    with temporary_folder(memory_folder()) as folder:
        canaries = guarantee.canaries
        if canaries is not None:
            canaries = replace(canaries, folder=folder / "canaries")
        account = replace(guarantee.account, path=folder / "ledger.sqlite")
        yield replace(guarantee, account=account, canaries=canaries)


def unlimited(guarantee: PrivacyGuarantee, rounds: int = 2, **training: Any) -> PrivacyGuarantee:
    """The guarantee with a budget that allows any number of steps, and some values of ``training`` changed."""
    return replace(
        guarantee,
        account=replace(guarantee.account, budget=Budget(UNLIMITED_EPSILON, guarantee.delta)),
        training=replace(guarantee.training, rounds=rounds, **training),
        epsilon=UNLIMITED_EPSILON,
    )


def noise_only(guarantee: PrivacyGuarantee, **training: Any) -> PrivacyGuarantee:
    """The guarantee of ``unlimited``, without releases of statistics or metrics."""
    return replace(unlimited(guarantee, **training), releases=Releases())


def as_kind(guarantee: PrivacyGuarantee, kind: type[PrivacyGuarantee], **more: Any) -> PrivacyGuarantee:
    """The same guarantee as an instance of ``kind``, which samples or divides in another way."""
    values = {key: getattr(guarantee, key) for key in PrivacyGuarantee.__dataclass_fields__}
    return kind(**{**values, **more})


def try_fit(fit: Callable[[], tuple[Update, State]]) -> tuple[Update, State] | None:
    """Return what ``fit`` returns, or None if the round fails; the reason is in the silo's log."""
    try:
        return fit()
    except SiloFailed:
        return None


@contextmanager
def without_dropout(net: nn.Module) -> Iterator[None]:
    """
    Keep layers without parameters in evaluation mode. Dropout draws by position in the batch, so the sums of rounds with
    and without a record could not be compared.
    """

    def stop(layer: nn.Module, _: Any) -> None:
        layer.train(False)

    layers = [module for module in net.modules() if next(module.parameters(), None) is None]
    handles = [layer.register_forward_pre_hook(stop) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
