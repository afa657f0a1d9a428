"""What an engine is, what it does with a job that fails, and the federation that stands on one."""

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from fedtl.data.dataset import SiloDataset
from fedtl.errors import FedTLError, SiloFailed
from fedtl.messages import Refusal, Task, Update
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

log = logging.getLogger(__name__)
TRIES = 2


class Job(Protocol):
    """Something to do at one silo. May change ``silo.local`` and its labels. A value that can be sent to another process."""

    def __call__(self, trainer: Trainer, silo: Silo) -> Any: ...


class Engine(Protocol):
    """Runs a job at many silos, however it likes. A context manager: what it started ends with it."""

    @property
    def workers(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """
        (name, result) in the order of ``silos``, each silo's changed ``local`` and labels put back into it. At most as many
        results as there are workers wait for their turn.

        A SiloFailed is a result, and leaves the silo as it was: the job raised it, or it failed in a way that
        nobody foresaw, ``TRIES`` times. Any other FedTLError ends the run.
        """
        ...


@dataclass(frozen=True)
class WorkerContext:
    """What a worker has: its bench, and how to come by a silo's data."""

    trainer: Trainer
    data: Callable[[str], SiloDataset]


@dataclass(frozen=True)
class UnexpectedFailure:
    """One failure that nobody foresaw, in words that can be sent: a line, and where it happened."""

    line: str
    details: str = ""


def attempt(job: Job, trainer: Trainer, silo: Silo) -> Any:
    """The job's result, a SiloFailed, or a Mishap; raises any other FedTLError."""
    try:
        return job(trainer, silo)
    except SiloFailed as failure:
        return failure
    except FedTLError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        return UnexpectedFailure(f"{type(error).__name__}: {line}", traceback.format_exc())


def failed_repeatedly(name: str, mishap: UnexpectedFailure) -> SiloFailed:
    """The silo that failed once too often, by name; the traceback goes to the log."""
    log.error("%s failed %d times; the last time:\n%s", name, TRIES, mishap.details or mishap.line)
    return SiloFailed(f"{name}: failed {TRIES} times: {mishap.line}")


@dataclass(frozen=True)
class Fit:
    """The job of a round."""

    task: Task

    def __call__(self, trainer: Trainer, silo: Silo) -> Update:
        return trainer.fit(silo, self.task)


@dataclass(frozen=True)
class Simulation:
    """A federation whose silos are all here; the server's side sees it as any other. ``job``: that of a round."""

    engine: Engine
    members: Mapping[str, Silo]
    job: Callable[[Task], Job] = Fit

    def silos(self) -> Sequence[str]:
        return sorted(self.members)

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        for name, result in self.engine.each(self.job(task), [self.members[silo] for silo in silos]):
            yield Refusal(name, task.round, str(result)) if isinstance(result, SiloFailed) else result
