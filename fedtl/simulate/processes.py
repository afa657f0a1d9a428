"""
Silos in several processes at once, each with a bench of its own.

The parent owns every silo's local state: it sends it along and takes back what the job made of it, so no worker
holds anything that a killed process could lose, and results do not depend on which worker did what. What is sent
lies in shared memory: a job once for all, whatever the number of silos.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self, cast

from torch import multiprocessing

from fedtl.errors import FedTLError, SiloFailed
from fedtl.silo import Silo
from fedtl.simulate import parcel
from fedtl.simulate.engine import TRIES, Job, Mishap, Workplace, given_up
from fedtl.simulate.scratch import memory, scratch
from fedtl.simulate.worker import READY, Order, deaf, serve
from fedtl.state import copy

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

    def __init__(self, furnish: Callable[[], Workplace], workers: int, threads: int) -> None:
        self.workers, self._threads = workers, threads
        self._furnish, self._jobs = furnish, 0
        self._scratch = scratch(memory())
        self._folder = Path()
        self._staff: list[_Worker] = []

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """As Engine.each. A silo whose worker died, or that failed in a way nobody foresaw, is given out again."""
        self._jobs += 1
        path = self._folder / f"job-{self._jobs}"
        parcel.write(path, job)
        waiting, turn = list(range(len(silos))), 0
        done: dict[int, Any] = {}
        failed: Counter[int] = Counter()
        while turn < len(silos):
            for worker in self._staff:
                if worker.at is None and waiting and waiting[0] < turn + 2 * self.workers:
                    self._hand(worker, waiting.pop(0), path, silos)
            if turn in done:
                yield silos[turn].name, done.pop(turn)
                turn += 1
                continue
            for at, result in self._answers(silos):
                failed[at] += isinstance(result, Mishap)
                if isinstance(result, Mishap) and failed[at] < TRIES:
                    insort(waiting, at)
                else:
                    done[at] = given_up(silos[at].name, result) if isinstance(result, Mishap) else result
        path.unlink()

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
        with deaf():
            process.start()
        theirs.close()  # or its death would not be an end of file here
        return _Worker(number, process, ours)

    def _hand(self, worker: _Worker, at: int, job: Path, silos: Sequence[Silo]) -> None:
        silo, here = silos[at], self._folder / f"{worker.number}-"
        order = Order(
            job, silo.name, silo.secret, here.with_name(f"{here.name}in"), here.with_name(f"{here.name}out")
        )
        parcel.write(order.local, silo.local)
        worker.at = at
        self._tell(worker, order)

    def _tell(self, worker: _Worker, message: Any) -> None:
        with suppress(OSError):  # it is dead, which whoever waits for its answer finds out
            worker.pipe.send(message)

    def _answers(self, silos: Sequence[Silo]) -> Iterator[tuple[int, Any]]:
        """Wait for workers that are at something, and take what they have: (silo, result or Mishap)."""
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
                yield at, answer or self._result(worker, silos[at])

    def _result(self, worker: _Worker, silo: Silo) -> Any:
        path = self._folder / f"{worker.number}-out"
        result, local = parcel.read(path)
        path.unlink()
        if not isinstance(result, SiloFailed):
            silo.local = copy(local)  # not a view: that would keep the whole result in memory
        return result

    def _replaced(self, worker: _Worker) -> Mishap:
        """Another process in a dead worker's place. Raises FedTLError for one that could not even begin."""
        worker.process.join(PATIENCE)
        how = f"exit code {worker.process.exitcode}; killed, or out of memory?"
        if not worker.ready:
            raise FedTLError(f"a worker process died while it started ({how}); try fewer --workers")
        worker.pipe.close()
        new = self._hire(worker.number)
        worker.process, worker.pipe, worker.ready = new.process, new.pipe, False
        return Mishap(f"its worker process died ({how})")
