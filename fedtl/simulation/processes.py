"""
Silos in several processes at once, each with its own trainer.

The parent owns every silo's local state: it sends it to a worker and takes back the changed one, so a killed worker loses
nothing, and results do not depend on which worker did what. What is sent lies in shared memory, a job only once
for all silos.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self, cast

from torch import multiprocessing

from fedtl.errors import ConfigError, FedTLError
from fedtl.models.state import State
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import Fit, Job, UnexpectedFailure, WorkerContext
from fedtl.simulation.mapped_pickle import read_mapped, write_mapped
from fedtl.simulation.scheduler import History, most_at_once, run_in_order
from fedtl.simulation.stacked import chunks
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.simulation.worker import (
    READY,
    STARTED,
    Answer,
    Order,
    SiloFacts,
    exit_if_unguarded,
    failed_script,
    ignore_sigint,
    kept_apart,
    serve,
)
from fedtl.training.silo import Silo

CONTEXT = "context"
DIED = "died"
END_SECONDS = 10  # the time that a worker has to end after it is asked to


@dataclass
class _Worker:
    """One process, the parent's end of its pipe, and the indices of the silos that it has (none: idle)."""

    number: int
    process: BaseProcess
    pipe: Connection
    started: bool = False
    ready: bool = False
    indices: Sequence[int] = ()


class Processes:
    """
    The engine of several processes. ``make_context`` is sent to them, so it must be picklable. ``stack``: the number of silos that
    each process trains at once, with the bits that ``Stacked`` gives.
    """

    def __init__(
        self, make_context: Callable[[], WorkerContext], workers: int, threads: int, stack: int = 1
    ) -> None:
        self.workers, self._threads, self._stack = workers, threads, stack
        self._make_context, self._jobs, self._job = make_context, 0, Path()
        self._history = History()
        self._temporary = temporary_folder(memory_folder())
        self._folder = Path()
        self._pool: list[_Worker] = []

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """Run the job as ``Engine.each`` does. A silo whose worker died is trained again by another worker."""
        self._jobs += 1
        self._job = self._folder / f"job-{self._jobs}"
        write_mapped(self._job, job)
        if self._stack > 1 and isinstance(job, Fit):
            yield from run_in_order(
                self, silos, self._history, type(job), self._stack, stacked_with(silos, self._stack)
            )
        else:
            most = most_at_once(self._job.stat().st_size, silos)
            yield from run_in_order(self, silos, self._history, type(job), most)
        self._job.unlink()

    def __enter__(self) -> Self:
        exit_if_unguarded()
        self._folder = self._temporary.__enter__()
        write_mapped(self._folder / CONTEXT, self._make_context)
        self._pool = [self._start(number) for number in range(self.workers)]
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self._pool:
            if error[0] is None and worker.ready and not worker.indices:
                self._send(worker, None)
            else:
                worker.process.terminate()
        for worker in self._pool:
            worker.process.join(END_SECONDS)
            worker.process.kill()
            worker.pipe.close()
        self._temporary.__exit__(None, None, None)

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=serve,
            args=(there, self._folder / CONTEXT, self._threads, number, self._stack),
            daemon=True,
        )
        with ignore_sigint():
            process.start()
        there.close()  # otherwise the worker's death would not be an end of file here
        return _Worker(number, process, here)

    def idle(self) -> Iterator[int]:
        return (worker.number for worker in self._pool if not worker.indices)

    def hand(self, worker: int, silos: Mapping[int, Silo]) -> None:
        locals, answers = (self._folder / f"{worker}-{part}" for part in ("in", "out"))
        write_mapped(locals, [silo.local for silo in silos.values()])
        self._pool[worker].indices = tuple(silos)
        order = Order(self._job, [SiloFacts.of(silo) for silo in silos.values()], locals, answers)
        self._send(self._pool[worker], order)

    def _send(self, worker: _Worker, message: Any) -> None:
        with suppress(OSError):  # the worker is dead, as ``answers`` will find
            worker.pipe.send(message)

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """Yield answers as ``WorkerPool.answers`` does. Raises errors that end the run."""
        pipes = {worker.pipe: worker for worker in self._pool}
        for pipe in wait(list(pipes)):
            worker = pipes[cast(Connection, pipe)]
            answer: Any = DIED
            with suppress(EOFError, OSError):
                answer = worker.pipe.recv()
            if answer == DIED:
                answer = self._replace(worker)
            if answer in (STARTED, READY):
                worker.started, worker.ready = True, answer == READY
                continue
            if isinstance(answer, FedTLError):
                raise answer
            indices, worker.indices = worker.indices, ()
            written = [answer] * len(indices) if answer else self._written(worker)
            for index, one in zip(indices, written, strict=True):
                yield index, *kept_apart(one)

    def _written(self, worker: _Worker) -> list[Answer]:
        path = self._folder / f"{worker.number}-out"
        answers: list[Answer] = read_mapped(path)
        path.unlink()
        return answers

    def _replace(self, worker: _Worker) -> UnexpectedFailure:
        """Start another process for a worker that died. Raises for one that never became ready."""
        worker.process.join(END_SECONDS)
        code = worker.process.exitcode
        how = f"exit code {code}" + ("; killed, or out of memory?" if code and code < 0 else "")
        if not worker.started and (script := failed_script(code)):
            raise ConfigError(f"{script}, or set engine.workers = 1")
        if not worker.ready:
            raise FedTLError(f"a worker process died while it started ({how}); set a smaller --workers")
        worker.pipe.close()
        new = self._start(worker.number)
        worker.process, worker.pipe, worker.started, worker.ready = new.process, new.pipe, False, False
        return UnexpectedFailure(f"its worker process died ({how})")


def stacked_with(silos: Sequence[Silo], size: int) -> dict[int, Sequence[int]]:
    """Return for each silo, by its number, the numbers of all silos of its stack in order."""
    number = {silo.name: index for index, silo in enumerate(silos)}
    stacks = (sorted(number[silo.name] for silo in chunk) for chunk in chunks(silos, size))
    return {index: stack for stack in stacks for index in stack}
