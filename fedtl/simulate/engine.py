"""What an engine is, and the federation that stands on one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from fedtl.errors import SiloFailed
from fedtl.messages import Refusal, Task, Update
from fedtl.silo import Bench, Silo


class Job(Protocol):
    """Something to do at one silo. May change ``silo.local``. A value that can be sent to another process."""

    def __call__(self, bench: Bench, silo: Silo) -> Any: ...


class Engine(Protocol):
    """Runs a job at many silos, however it likes. A context manager: what it started ends with it."""

    @property
    def workers(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """
        (name, result) in any order, each silo's changed ``local`` put back into it. A SiloFailed is a result,
        and leaves the silo as it was; any other exception ends the run.
        """
        ...


@dataclass(frozen=True)
class Fit:
    """The job of a round."""

    task: Task

    def __call__(self, bench: Bench, silo: Silo) -> Update:
        return bench.fit(silo, self.task)


@dataclass(frozen=True)
class Simulation:
    """A federation whose silos are all here; the server's side sees it as any other."""

    engine: Engine
    members: Mapping[str, Silo]

    def silos(self) -> Sequence[str]:
        return sorted(self.members)

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        for name, result in self.engine.each(Fit(task), [self.members[silo] for silo in silos]):
            yield Refusal(name, task.round, str(result)) if isinstance(result, SiloFailed) else result
