"""fedtl as a contender: a trainer, an engine, a simulation and its rounds."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from loads import CLASSES, Load

from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.methods.server import ServerStep
from fedtl.methods.sharing import fedavg
from fedtl.models.state import State
from fedtl.simulation.engine import Engine, Simulation, WorkerContext
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.stackable import why_not_stackable
from fedtl.simulation.stacked import Stacked
from fedtl.training.config import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import CPU, Trainer

ENDLESS = 10**6


def make_trainer(load: Load, device: torch.device = CPU, dtype: str = "float32", epochs: int = 1) -> Trainer:
    settings = TrainingConfig(lr=load.lr, momentum=load.momentum, batch_size=load.batch, epochs=epochs)
    return Trainer(load.model_spec(), fedavg(), settings, device, dtype=dtype)


def make_worker_context(load: Load) -> WorkerContext:
    """The context of a worker process, created in that process."""
    return WorkerContext(make_trainer(load), load.data)


@dataclass(frozen=True)
class EmptyJob:
    """A job without work, to find out when the workers are ready."""

    def __call__(self, trainer: Trainer, silo: Silo) -> None:
        return None


class Fedtl:
    """
    ``startup``: seconds from creating the engine to the answers of all silos to an empty job. ``address``: of a cluster of Ray.
    """

    def __init__(
        self, load: Load, workers: int, stack: int = 1, trainer: Trainer | None = None, address: str = ""
    ) -> None:
        trainer = trainer or make_trainer(load)
        shared, local = trainer.partition.split(trainer.initial(len(CLASSES)))
        members = {name: Silo(name, load.data(name), dict(local), b"bench") for name in load.names()}
        self._open = ExitStack()
        clock = time.perf_counter()
        self.engine: Engine = self._open.enter_context(_engine(load, trainer, workers, stack, address))
        for _ in self.engine.each(EmptyJob(), list(members.values())):
            pass
        self.startup = time.perf_counter() - clock
        plan = FederationConfig("bench", seed=0, rounds=ENDLESS, server=ServerStep())
        self._rounds = run_rounds(
            Simulation(self.engine, members), plan, ServerState(0, shared), trainer.partition.roles
        )

    def round(self) -> State:
        return next(self._rounds).after.shared

    def close(self) -> None:
        self._rounds.close()
        self._open.close()


def unstackable(load: Load) -> str | None:
    """Return why the silos of this load cannot be trained in one stack; None if they can."""
    return why_not_stackable(make_trainer(load))


def _engine(load: Load, trainer: Trainer, workers: int, stack: int, address: str) -> Any:
    if address:
        from fedtl.simulation.ray import RayCluster  # Ray may be absent

        return RayCluster(partial(make_worker_context, load), workers, 1, address, "cpu")
    if workers > 1:
        return Processes(partial(make_worker_context, load), workers, threads=1, stack=stack)
    return Stacked(trainer, stack) if stack > 1 else Serial(trainer)
