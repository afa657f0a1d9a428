"""All silos in this process, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fedtl.simulation.engine import MAX_ATTEMPTS, Job, UnexpectedFailure, failed_repeatedly, try_job
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Serial:
    """The engine without workers; every other engine gives its results."""

    trainer: Trainer
    workers: int = 1

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        for silo in silos:
            for _ in range(MAX_ATTEMPTS):
                result = try_job(job, self.trainer, silo)
                if not isinstance(result, UnexpectedFailure):
                    break
            yield (
                silo.name,
                failed_repeatedly(silo.name, result) if isinstance(result, UnexpectedFailure) else result,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
