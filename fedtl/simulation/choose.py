"""Which engine an experiment's silos are trained by, and how many workers it has."""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch

from fedtl.errors import ConfigError
from fedtl.simulation.engine import Engine, WorkerContext
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.stacked import Stacked, refuse
from fedtl.training.trainer import Trainer

STACKED_WEIGHTS = 8_000_000  # numbers in a stack that nobody asked for
STACKED_SILOS = 64


def places(device: str) -> int:
    """How many workers are worth having: the cores that this process may use, or the machine's GPUs."""
    if device == "cuda":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(settings: EngineSettings, trainer: Trainer) -> None:
    """Whether such an engine can be had for this bench. Raises ConfigError."""
    if settings.stack > 1 and (reason := refuse(trainer)):
        raise ConfigError(reason)
    if settings.name == "ray" and not find_spec("ray"):
        raise ConfigError('engine.name = "ray" needs ray: pip install "fedtl[ray]"')


def engine(
    settings: EngineSettings, trainer: Trainer, furnish: Callable[[], WorkerContext], silos: int
) -> Engine:
    """``furnish`` makes a worker's workplace, where workers are processes of their own."""
    device = trainer.device.type
    if settings.name == "ray":
        from fedtl.simulation.ray import Cluster

        return Cluster(furnish, settings.workers, settings.threads, settings.address, device)
    if (size := settings.stack or _stack(trainer)) > 1 and silos > 1:
        return Stacked(trainer, size)
    workers = min(settings.workers or places(device), silos)
    if settings.name == "serial" or workers < 2:
        return Serial(trainer)
    return Processes(furnish, workers, settings.threads)


def _stack(trainer: Trainer) -> int:
    """How many silos one GPU trains at once where the experiment leaves it open; several GPUs have a worker each."""
    if trainer.device.type != "cuda" or torch.cuda.device_count() > 1 or refuse(trainer):
        return 1
    weights = sum(weight.numel() for weight in trainer.net(1).parameters())
    return max(1, min(STACKED_SILOS, STACKED_WEIGHTS // weights))
