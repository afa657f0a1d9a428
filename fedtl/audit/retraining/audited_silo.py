"""
One silo before its first round, to be trained again and again with one thing changed: by the site's own code, on its own
rows, with a scratch ledger. Nothing that is trained here leaves.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.source import Raw
from fedtl.errors import SiloFailed
from fedtl.experiment.study import Study, reader
from fedtl.messages import Task, Update
from fedtl.methods.base import without_weight_terms
from fedtl.models.state import State
from fedtl.privacy import taint as labels
from fedtl.privacy.budget import Budget
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training.batches import to_inputs
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

ENOUGH = 1e9  # an epsilon that no rehearsal exceeds
STILL = 1e-30  # a learning rate at which no weight of float32 moves
Ready = Callable[[Raw], tuple[SiloDataset, PrivacyGuarantee]]


@dataclass(frozen=True)
class Stage:
    """
    ``secret``: the silo's own. ``raw``: its rows as they are stored; ``ready`` prepares them and promises, by the same
    code that made ``data`` and ``guarantee``.
    """

    trainer: Trainer
    name: str
    data: SiloDataset
    guarantee: PrivacyGuarantee
    secret: bytes
    rounds: int
    seed: int
    raw: Raw
    ready: Ready

    def task(self, number: int = 1) -> Task:
        shared, _ = self.trainer.partition.split(self.trainer.initial(self.data.width))
        return Task("rehearsal", number, self.rounds, self.seed, shared)

    def fit(
        self,
        guarantee: PrivacyGuarantee,
        data: SiloDataset | None = None,
        trainer: Trainer | None = None,
        number: int = 1,
    ) -> tuple[Update, State]:
        """The update and the silo's local state after one round, which is round ``number`` of the plan."""
        trainer = trainer or self.trainer
        own = data or self.data
        _, local = trainer.partition.split(trainer.initial(own.width))
        silo = Silo(self.name, own, local, self.secret, guarantee, labels.public(trainer.partition.roles))
        return trainer.fit(silo, self.task(number)), silo.local

    def phases(self) -> list[int]:
        """The numbers of the phases that take private steps."""
        return [number for number, count in enumerate(self.guarantee.training.steps) if count]

    def steps(self, each: int) -> tuple[int, ...]:
        """As many private steps in each phase that takes any."""
        return tuple(each if count else 0 for count in self.guarantee.training.steps)

    def unmoved(self) -> Trainer:
        """The bench with a learning rate so small that every step starts from the same weights, and no other pull."""
        still = TrainingConfig(optimizer="sgd", lr=STILL, momentum=0.0, freeze=self.trainer.training.freeze)
        method = without_weight_terms(self.trainer.method)
        return replace(self.trainer, method=method, training=still)


def stage_of(study: Study, name: str) -> Stage:
    """A silo of a simulation."""
    guarantee = study.guarantees[name]
    raw = reader(study.raws, study.experiment.data)(name)

    def ready(stored: Raw) -> tuple[SiloDataset, PrivacyGuarantee]:
        data = study.prepared(name, stored).data
        return data, study.guarantee(name, guarantee.account.path.parent, data)

    experiment = study.experiment
    return Stage(
        *(study.trainer, name, study.data(name), guarantee, study.secret(name)),
        *(experiment.rounds, experiment.seed, raw, ready),
    )


@contextmanager
def scratched(guarantee: PrivacyGuarantee) -> Iterator[PrivacyGuarantee]:
    """The guarantee with a ledger and a folder for canaries of its own."""
    with temporary_folder(memory_folder()) as folder:
        account = replace(guarantee.account, path=folder / "ledger.sqlite")
        canaries = guarantee.canaries
        if canaries is not None:
            canaries = replace(canaries, folder=folder / "canaries")
        yield replace(guarantee, account=account, canaries=canaries)


def unlimited(guarantee: PrivacyGuarantee, rounds: int = 2, **training: Any) -> PrivacyGuarantee:
    """The guarantee with a budget that any schedule fits into, and the given values of its training changed."""
    return replace(
        guarantee,
        account=replace(guarantee.account, budget=Budget(ENOUGH, guarantee.delta)),
        training=replace(guarantee.training, rounds=rounds, **training),
        epsilon=ENOUGH,
    )


def as_kind(guarantee: PrivacyGuarantee, kind: type[PrivacyGuarantee], **more: Any) -> PrivacyGuarantee:
    """The same promise as a subclass of Promise that draws or divides in another way."""
    values = {key: getattr(guarantee, key) for key in PrivacyGuarantee.__dataclass_fields__}
    return kind(**{**values, **more})


def tried(fit: Callable[[], tuple[Update, State]]) -> tuple[Update, State] | None:
    """None where the round failed, which the silo's log explains."""
    try:
        return fit()
    except SiloFailed:
        return None


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """
    Layers without parameters as in evaluation, for whole rounds: dropout draws by place in the batch, so that the sums of
    rounds without a record could not be compared.
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


# Other rows


def few(data: SiloDataset, guarantee: PrivacyGuarantee, most: int) -> tuple[SiloDataset, PrivacyGuarantee]:
    """The rows of the first units, at most so many of them, and the guarantee for their number."""
    rows, units = data.train, units_of(data, guarantee)
    inside = units < most
    train = Dataset(rows.x[inside], rows.y[inside], None if rows.units is None else rows.units[inside])
    count = int(units[inside].max()) + 1
    statistics = guarantee.releases.statistics
    if statistics is not None:
        statistics = replace(statistics, units=count)
    changed = replace(
        guarantee,
        protected=replace(guarantee.protected, count=count),
        releases=replace(guarantee.releases, statistics=statistics),
    )
    return replace(data, train=train), changed


def units_of(data: SiloDataset, guarantee: PrivacyGuarantee) -> Tensor:
    """[N]: the number of each training row's unit, which is the row's own number where records are protected."""
    if guarantee.protected.are_records or data.train.units is None:
        return torch.arange(len(data.train))
    return data.train.units


def strangers(data: SiloDataset) -> SiloDataset:
    """As many rows that nobody has, of as many units; other ones than ``silo.nobody`` gives, which every round looks at first."""
    generator = torch.Generator().manual_seed(1)

    def other(rows: Dataset) -> Dataset:
        if rows.x.dtype == torch.uint8:
            x = torch.randint(0, 256, rows.x.shape, dtype=torch.uint8, generator=generator)
        else:
            x = torch.randn(rows.x.shape, generator=generator).to(rows.x.dtype)
        if data.classes:
            y = torch.randint(data.width, rows.y.shape, generator=generator).to(rows.y)
        else:
            y = data.y_mean + data.y_std * torch.randn(rows.y.shape, generator=generator).to(rows.y)
        return Dataset(x, y, rows.units)

    return replace(data, train=other(data.train), val=other(data.val))


def as_floats(data: SiloDataset, trainer: Trainer) -> SiloDataset:
    """The same inputs as the net sees them, so that a value may be any number."""

    def floats(rows: Dataset) -> Dataset:
        return replace(rows, x=to_inputs(rows.x, trainer.device).cpu().contiguous())

    return replace(data, train=floats(data.train), val=floats(data.val))


def absent(data: SiloDataset, which: Tensor) -> SiloDataset:
    """The same rows, of which those in ``which`` [N] have no finite input: such a record adds nothing to any sum."""
    x = data.train.x.clone()
    x[which] = torch.nan
    return replace(data, train=replace(data.train, x=x))


def extreme(data: SiloDataset, which: Tensor) -> SiloDataset:
    """The same rows, of which those in ``which`` [N] are far from all others and have another label."""
    x, y = data.train.x.clone(), data.train.y.clone()
    x[which] = -30 * x[which] - 3
    y[which] = (y[which] + 1) % data.width if data.classes else y[which] + 30 * data.y_std
    return replace(data, train=replace(data.train, x=x, y=y))
