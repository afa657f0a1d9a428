"""Which engine trains an experiment's silos, and with how many workers."""

from collections.abc import Callable
from importlib.util import find_spec

import torch

from fedtl.errors import ConfigError
from fedtl.simulation.cores import usable_cores
from fedtl.simulation.engine import Engine, WorkerContext
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.stackable import why_not_stackable
from fedtl.simulation.stacked import Stacked
from fedtl.training.trainer import Trainer

MAX_STACKED_WEIGHTS = 8_000_000  # the most weights of a stack whose size the experiment does not set
MAX_STACKED_SILOS = 64


def choose_device(name: str) -> str:
    """Return "cuda" or "cpu"; for "auto", "cuda" where there is a GPU. Raises ConfigError."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds no CUDA device; use auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def default_workers(device: str) -> int:
    """The number of cores that this process may use, or of GPUs."""
    if device == "cuda":
        return torch.cuda.device_count()
    return usable_cores()


def check_engine(settings: EngineSettings, trainer: Trainer) -> None:
    """Raise ConfigError where this trainer cannot be used with such an engine, or a package is missing."""
    if settings.stack > 1 and (reason := why_not_stackable(trainer)):
        raise ConfigError(reason)
    if settings.name == "ray" and not find_spec("ray"):
        raise ConfigError('engine.name = "ray" needs ray: pip install "fedtl[ray]"')


def make_engine(
    settings: EngineSettings, trainer: Trainer, make_context: Callable[[], WorkerContext], silos: int
) -> Engine:
    """The engine for ``silos`` silos. ``make_context`` makes the context of a worker that is a process of its own."""
    device = trainer.device.type
    if settings.name == "ray":
        from fedtl.simulation.ray import RayCluster

        return RayCluster(make_context, settings.workers, settings.threads, settings.address, device)
    size = min(settings.stack or _stack(trainer), silos)
    workers = min(settings.workers or default_workers(device), -(-silos // max(1, size)))
    if settings.name == "serial" or workers < 2:
        return Stacked(trainer, size) if size > 1 else Serial(trainer)
    return Processes(make_context, workers, settings.threads, size)


def _stack(trainer: Trainer) -> int:
    """How many silos one GPU trains at once where engine.stack is 0. Several GPUs have one worker each instead."""
    if trainer.device.type != "cuda" or torch.cuda.device_count() > 1 or why_not_stackable(trainer):
        return 1
    weights = sum(weight.numel() for weight in trainer.net(1).parameters())
    return max(1, min(MAX_STACKED_SILOS, MAX_STACKED_WEIGHTS // weights))
