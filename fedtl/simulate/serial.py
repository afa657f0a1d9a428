"""All silos in this process, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fedtl.errors import SiloFailed
from fedtl.silo import Bench, Silo
from fedtl.simulate.engine import Job


@dataclass(frozen=True)
class Serial:
    bench: Bench
    workers: int = 1

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        for silo in silos:
            try:
                result = job(self.bench, silo)
            except SiloFailed as failure:
                result = failure
            yield silo.name, result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
