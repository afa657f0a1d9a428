"""
Silos in several processes at once, each with a bench of its own.

The parent owns every silo's local state: it sends it along and takes back what the job made of it, so no worker
holds anything that a killed process could lose, and results do not depend on which worker did what. What is sent
lies in shared memory: a job once for all, whatever the number of silos.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self, cast

from torch import multiprocessing

from fedtl.errors import FedTLError
from fedtl.models.state import State, copy_state
from fedtl.privacy.taint import Labels
from fedtl.simulation import shared_store as parcel
from fedtl.simulation.engine import Job, UnexpectedFailure, WorkerContext
from fedtl.simulation.scheduler import in_order
from fedtl.simulation.temp_folder import memory, scratch
from fedtl.simulation.worker import READY, Order, ignore_sigint, serve
from fedtl.training.silo import Silo

FURNISH = "furnish"
PATIENCE = 10  # seconds for a worker to end when it is told to


@dataclass
class _Worker:
    """One process, the parent's end of its pipe, and the silo that it is at (None: idle)."""

    number: int
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    at: int | None = None


class Processes:
    """``furnish`` makes a worker's workplace; it is sent to the workers, so it must be picklable."""

    def __init__(self, furnish: Callable[[], WorkerContext], workers: int, threads: int) -> None:
        self.workers, self._threads = workers, threads
        self._furnish, self._jobs, self._job = furnish, 0, Path()
        self._home: dict[str, int] = {}
        self._scratch = scratch(memory())
        self._folder = Path()
        self._staff: list[_Worker] = []

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """As Engine.each. A silo whose worker died is given out again."""
        self._jobs += 1
        self._job = self._folder / f"job-{self._jobs}"
        parcel.write(self._job, job)
        yield from in_order(self, silos, self._home)
        self._job.unlink()

    def __enter__(self) -> Self:
        self._folder = self._scratch.__enter__()
        parcel.write(self._folder / FURNISH, self._furnish)
        self._staff = [self._hire(number) for number in range(self.workers)]
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self._staff:
            if error[0] is None and worker.ready and worker.at is None:
                self._tell(worker, None)
            else:
                worker.process.terminate()
        for worker in self._staff:
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.pipe.close()
        self._scratch.__exit__(None, None, None)

    def _hire(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(theirs, self._folder / FURNISH, self._threads, number), daemon=True
        )
        with ignore_sigint():
            process.start()
        theirs.close()  # or its death would not be an end of file here
        return _Worker(number, process, ours)

    def idle(self) -> Iterator[int]:
        return (worker.number for worker in self._staff if worker.at is None)

    def hand(self, worker: int, at: int, silo: Silo) -> None:
        local, result = (self._folder / f"{worker}-{part}" for part in ("in", "out"))
        parcel.write(local, silo.local)
        self._staff[worker].at = at
        order = Order(self._job, silo.name, silo.secret, silo.guarantee, silo.labels, local, result)
        self._tell(self._staff[worker], order)

    def _tell(self, worker: _Worker, message: Any) -> None:
        with suppress(OSError):  # it is dead, which whoever waits for its answer finds out
            worker.pipe.send(message)

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """As Staff.answers. Raises what ends the run."""
        pipes = {worker.pipe: worker for worker in self._staff}
        for pipe in wait(list(pipes)):
            worker = pipes[cast(Connection, pipe)]
            try:
                answer = worker.pipe.recv()
            except (EOFError, OSError):
                answer = self._replaced(worker)
            if answer == READY:
                worker.ready = True
                continue
            if isinstance(answer, FedTLError):
                raise answer
            at, worker.at = worker.at, None
            if at is not None:
                yield at, *((answer, ({}, {})) if answer else self._result(worker))

    def _result(self, worker: _Worker) -> tuple[Any, tuple[State, Labels]]:
        path = self._folder / f"{worker.number}-out"
        result, local, labels = parcel.read(path)
        path.unlink()
        return result, (copy_state(local), labels)  # not a view: that would keep the whole result in memory

    def _replaced(self, worker: _Worker) -> UnexpectedFailure:
        """Another process in a dead worker's place. Raises FedTLError for one that could not even begin."""
        worker.process.join(PATIENCE)
        how = f"exit code {worker.process.exitcode}; killed, or out of memory?"
        if not worker.ready:
            raise FedTLError(f"a worker process died while it started ({how}); try fewer --workers")
        worker.pipe.close()
        new = self._hire(worker.number)
        worker.process, worker.pipe, worker.ready = new.process, new.pipe, False
        return UnexpectedFailure(f"its worker process died ({how})")
