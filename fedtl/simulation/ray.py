"""
Silos on the machines of a Ray cluster, each actor with its own trainer.

As with processes on one machine, the driver owns every silo's local state: when a machine is lost, its silos are done again
on another one. A job is put into the object store once, from where each machine fetches it once. Each machine reads
the data that it works on from the same path as the driver would.
"""

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from fedtl.errors import ConfigError, FedTLError, first_line
from fedtl.models.state import State
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import Job, UnexpectedFailure, WorkerContext, type_and_text
from fedtl.simulation.mapped_pickle import from_buffers, to_buffers
from fedtl.simulation.scheduler import History, most_at_once, run_in_order
from fedtl.simulation.worker import READY, Answer, SiloFacts, answers_of, kept_apart
from fedtl.training import threads as machine
from fedtl.training.silo import Silo

WAIT_SECONDS = 120.0  # the run ends after this time without any worker
CONNECT_SECONDS = 10.0
MAX_STARTS = 3  # the most starts of a worker that dies before it is ready
Packed = tuple[bytes, list[Any]]


class _RayWorker:
    """An actor: one worker on the machine that Ray chose."""

    def __init__(self, make_context: Packed, threads: int) -> None:
        machine.set_threads(threads)
        self._make_context = make_context
        self._job_number, self._job = -1, None
        self._context: WorkerContext | None = None

    def ready(self) -> Any:
        """READY, or the error that ends the run."""
        try:
            self._context = _unpack(self._make_context)()
        except FedTLError as error:
            return error
        return READY

    def do(self, number: int, job: Packed, silos: Sequence[SiloFacts], locals: Packed) -> Any:
        """The packed answers, or the error that ends the run."""
        assert self._context is not None
        if number != self._job_number:
            self._job_number, self._job = number, _unpack(job)
        try:
            return _pack(answers_of(self._job, self._context, silos, _unpack(locals)))
        except FedTLError as error:
            return error


@dataclass
class _Worker:
    """One actor, Ray's reference of its next answer (None: none), and the indices of its silos (none: idle)."""

    number: int
    actor: Any
    answer: Any
    ready: bool = False
    indices: Sequence[int] = ()
    starts: int = 1


class RayCluster:
    """
    The engine on a Ray cluster. ``workers`` 0: one for each core of the cluster, or for each GPU where ``device`` is
    "cuda". ``address`` "": a cluster of this machine, started here.
    """

    def __init__(
        self, make_context: Callable[[], WorkerContext], workers: int, threads: int, address: str, device: str
    ) -> None:
        self.workers, self._threads = workers, threads
        self._make_context, self._address, self._on_gpu = make_context, address, device == "cuda"
        self._history = History()
        self._pool: list[_Worker] = []
        self._jobs = 0
        self._job: Any = None
        self._connected_here = False

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """Run the job as ``Engine.each`` does. A silo whose machine is lost is trained again on another machine."""
        self._jobs += 1
        packed = _pack(job)
        size = len(packed[0]) + sum(buffer.nbytes for buffer in packed[1])
        self._job = ray.put(packed)
        yield from run_in_order(self, silos, self._history, type(job), most_at_once(size, silos))
        self._job = None

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            self._connect()
        resources: Any = ray.cluster_resources
        kind = "GPU" if self._on_gpu else "CPU"
        if not (available := resources().get(kind, 0)):
            raise ConfigError(f'engine.name = "ray": the cluster has no {kind}; choose another --device')
        self.workers = self.workers or int(available)
        self._context = ray.put(_pack(self._make_context))
        self._pool = [self._start(number) for number in range(self.workers)]
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self._pool:
            ray.kill(worker.actor)
        if self._connected_here:
            ray.shutdown()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            # Ray itself would try for minutes.
            if host := re.fullmatch(r"([\w.-]+):(\d{1,5})", self._address):
                socket.create_connection((host[1], int(host[2])), timeout=CONNECT_SECONDS).close()
            ray.init(
                self._address or "local",
                num_cpus=None if self._address else self.workers or None,
                include_dashboard=None if self._address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
            line = first_line(error)
            raise ConfigError(
                f"engine.address = {self._address!r}: no Ray cluster answers at this address ({line})"
            ) from error
        self._connected_here = True

    def _start(self, number: int) -> _Worker:
        needs = {"num_gpus": 1} if self._on_gpu else {"num_cpus": 1}
        remote: Any = ray.remote
        make = remote(_RayWorker).options(scheduling_strategy="SPREAD", **needs)
        actor = make.remote(self._context, self._threads)
        return _Worker(number, actor, actor.ready.remote())

    def idle(self) -> Iterator[int]:
        return (worker.number for worker in self._pool if worker.ready and not worker.indices)

    def hand(self, worker: int, silos: Mapping[int, Silo]) -> None:
        chosen = self._pool[worker]
        chosen.indices = tuple(silos)
        facts, locals = (
            [SiloFacts.of(silo) for silo in silos.values()],
            [silo.local for silo in silos.values()],
        )
        chosen.answer = chosen.actor.do.remote(self._jobs, self._job, facts, _pack(locals))

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """Yield answers as ``WorkerPool.answers`` does. Raises errors that end the run."""
        asked = {worker.answer: worker for worker in self._pool if worker.answer is not None}
        done, _ = ray.wait(list(asked), timeout=WAIT_SECONDS)
        if not done and not any(worker.ready for worker in self._pool):
            raise FedTLError(
                f"no worker started on the Ray cluster within {WAIT_SECONDS:g} s; check that {self.workers} cores are free"
            )
        for reference in done:
            worker = asked[reference]
            answer = self._answer(worker)
            if answer == READY:
                worker.ready, worker.answer = True, None
                continue
            if isinstance(answer, FedTLError):
                raise answer
            indices, worker.indices = worker.indices, ()
            if isinstance(answer, UnexpectedFailure):  # another actor starts, whose answer is waited for
                answers: list[Answer] = [answer] * len(indices)
            else:
                worker.answer, answers = None, _unpack(answer)
            for index, one in zip(indices, answers, strict=True):
                yield index, *kept_apart(one)

    def _answer(self, worker: _Worker) -> Any:
        """What the actor returned. For a lost actor an UnexpectedFailure, after another one was started for it."""
        try:
            return ray.get(worker.answer)
        except (
            RayTaskError
        ) as error:  # an error of Ray's or fedtl's: the job's own errors are returned as values
            raise FedTLError(f"a Ray worker failed: {error}") from error
        except RayError as error:  # the actor, its machine or its answer is lost
            line = type_and_text(error)
            if worker.starts == MAX_STARTS and not worker.ready:
                raise FedTLError(f"a Ray worker died {MAX_STARTS} times while it started: {line}") from error
            new = self._start(worker.number)
            worker.starts = 1 if worker.ready else worker.starts + 1
            worker.actor, worker.answer, worker.ready = new.actor, new.answer, False
            return UnexpectedFailure(f"its Ray worker was lost ({line})")


def _pack(value: Any) -> Packed:
    """Return the value as arrays, which Ray stores outside of its pickles and memory-maps."""
    pickled, buffers = to_buffers(value)
    return pickled, [np.frombuffer(buffer, np.uint8) for buffer in buffers]


def _unpack(packed: Packed) -> Any:
    """The value with its own memory: what Ray maps is read-only, and tensors are written to."""
    pickled, buffers = packed
    return from_buffers(pickled, [buffer.copy() for buffer in buffers])
