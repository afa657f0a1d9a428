"""What an engine is, how it treats a job that fails, and the federation that runs on one."""

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from fedtl.data.dataset import SiloDataset
from fedtl.errors import FedTLError, ModelError, SiloFailed
from fedtl.messages import Refusal, Task, Update
from fedtl.models.failures import module_failure
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer, trainer_at

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 2


class Job(Protocol):
    """Work to do at one silo. May change ``silo.local`` and its labels. Picklable, so that it can go to another process."""

    def __call__(self, trainer: Trainer, silo: Silo) -> Any: ...


class Engine(Protocol):
    """Runs a job at many silos. A context manager: the processes that it started end with it."""

    @property
    def workers(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """
        Yield (name, result) in the order of ``silos``, each silo's changed ``local`` and labels put back into it. Results
        that come before their turn are held back, at most one for each worker.

        A SiloFailed is a result and leaves the silo unchanged: the job raised it, or it failed unexpectedly
        ``MAX_ATTEMPTS`` times. Any other FedTLError is raised and ends the run.
        """
        ...


@dataclass(frozen=True)
class WorkerContext:
    """What a worker process needs: its trainer, and a function that returns a silo's data."""

    trainer: Trainer
    data: Callable[[str], SiloDataset]


@dataclass(frozen=True)
class UnexpectedFailure:
    """An exception that is not a FedTLError, in a form that can be sent: one line, and the traceback."""

    line: str
    details: str = ""


def try_job(job: Job, trainer: Trainer, silo: Silo) -> Any:
    """
    The job's result with the silo's own trainer, a SiloFailed or an UnexpectedFailure. Raises any other FedTLError, and
    ModelError where a module of the model failed, as it would each time.
    """
    try:
        return job(trainer_at(trainer, silo.name), silo)
    except SiloFailed as failure:
        return failure
    except FedTLError:
        raise
    except Exception as error:
        if (line := module_failure(error)) is not None:
            raise ModelError(f"silo {silo.name}: {line}") from error
        return UnexpectedFailure(type_and_text(error), traceback.format_exc())


def type_and_text(error: Exception) -> str:
    """The type of an exception and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def failed_repeatedly(name: str, failure: UnexpectedFailure) -> SiloFailed:
    """The error of a silo that failed ``MAX_ATTEMPTS`` times. The last traceback is logged."""
    log.error("%s failed %d times; the last time:\n%s", name, MAX_ATTEMPTS, failure.details or failure.line)
    return SiloFailed(f"{name}: failed {MAX_ATTEMPTS} times: {failure.line}")


@dataclass(frozen=True)
class Fit:
    """The job of a round."""

    task: Task

    def __call__(self, trainer: Trainer, silo: Silo) -> Update:
        return trainer.fit(silo, self.task)


@dataclass(frozen=True)
class Simulation:
    """A federation whose silos are all on this machine or cluster. ``job`` makes the job of a round."""

    engine: Engine
    members: Mapping[str, Silo]
    job: Callable[[Task], Job] = Fit

    def silos(self) -> Sequence[str]:
        return sorted(self.members)

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        for name, result in self.engine.each(self.job(task), [self.members[silo] for silo in silos]):
            yield Refusal(name, task.round, str(result)) if isinstance(result, SiloFailed) else result
