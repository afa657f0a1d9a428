"""All silos in this process, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fedtl.simulation.engine import TRIES, Job, Mishap, attempt, given_up
from fedtl.training.silo import Silo
from fedtl.training.trainer import Bench


@dataclass(frozen=True)
class Serial:
    bench: Bench
    workers: int = 1

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        for silo in silos:
            for _ in range(TRIES):
                result = attempt(job, self.bench, silo)
                if not isinstance(result, Mishap):
                    break
            yield silo.name, given_up(silo.name, result) if isinstance(result, Mishap) else result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
