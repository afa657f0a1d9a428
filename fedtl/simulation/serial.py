"""All silos in this process, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fedtl.simulation.engine import TRIES, Job, UnexpectedFailure, attempt, failed_repeatedly
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Serial:
    trainer: Trainer
    workers: int = 1

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        for silo in silos:
            for _ in range(TRIES):
                result = attempt(job, self.trainer, silo)
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
