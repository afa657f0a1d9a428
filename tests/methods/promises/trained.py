"""One run of each method, of two silos and two rounds with a tiny net: what was asked, what each silo answered and what it keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedtl.federation.recorder import RecordedRound
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Task, Update
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.models.state import State, copy_state
from fedtl.privacy.taint import Label, untrained_labels
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer
from tests.training.silos import data_of, shape_for, shaped, silo_at, spec_for

PLAN = FederationConfig("test", 0, 2, ServerStep())
OTHER = "other"  # the second silo; the first has the name of the method


def trainer_of(name: str) -> Trainer:
    return Trainer(spec_for(name), METHODS[name](), TrainingConfig(batch_size=8))


def rows_of(silo: str):
    return shaped(data_of(list(METHODS).index(silo), 20), shape_for(silo))


def silos_of(trainer: Trainer, name: str) -> list[Silo]:
    silos = [silo_at(trainer, name, rows_of(name)), silo_at(trainer, OTHER, data_of(1, 13))]
    for silo in silos:
        silo.labels = untrained_labels(trainer.partition.roles)
    return silos


@dataclass(frozen=True)
class Kept:
    """What stays at a silo after a round."""

    local: State
    labels: Mapping[str, Label]


@dataclass(frozen=True)
class RoundSeen:
    """One round: the task, each silo's update, what each silo keeps, and the server's state after it."""

    task: Task
    updates: Mapping[str, Update]
    kept: Mapping[str, Kept]
    after: ServerState

    def recorded(self) -> RecordedRound:
        deltas = {name: update.delta for name, update in self.updates.items()}
        return RecordedRound(self.task.round, self.task.shared, deltas, dict.fromkeys(deltas, 1.0))


class Watched:
    """A federation in this process that keeps the last task and its updates."""

    def __init__(self, trainer: Trainer, silos: Sequence[Silo]) -> None:
        self.trainer, self.members = trainer, {silo.name: silo for silo in silos}
        self.task, self.updates = None, {}

    def silos(self):
        return list(self.members)

    def ask(self, task, names):
        self.task, self.updates = task, {}
        for name in names:
            self.updates[name] = self.trainer.fit(self.members[name], task)
            yield self.updates[name]

    def kept(self):
        return {name: Kept(copy_state(silo.local), dict(silo.labels)) for name, silo in self.members.items()}


@dataclass(frozen=True)
class Run:
    """A method's run. ``rounds[0]`` and ``rounds[1]`` are its two rounds."""

    name: str
    trainer: Trainer
    rounds: Sequence[RoundSeen]

    @property
    def silo(self) -> Silo:
        """The first silo after the first round."""
        (silo, _), kept = silos_of(self.trainer, self.name), self.rounds[0].kept[self.name]
        silo.local, silo.labels = copy_state(kept.local), kept.labels
        return silo


@lru_cache(None)
def run_of(name: str) -> Run:
    trainer = trainer_of(name)
    federation = Watched(trainer, silos_of(trainer, name))
    shared, _ = trainer.partition.split(trainer.initial(3))
    rounds = [
        RoundSeen(federation.task, federation.updates, federation.kept(), done.after)
        for done in run_rounds(federation, PLAN, ServerState(0, shared), trainer.partition.roles)
    ]
    return Run(name, trainer, rounds)
