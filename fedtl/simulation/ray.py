"""
Silos on the machines of a Ray cluster, each actor with a bench of its own.

As with processes here, the driver owns every silo's local state, so a machine may go away with none of it: its
silos are done again elsewhere. What all silos receive is put into the object store once a job, from where each machine
fetches it once. Data is read by the machine that works on it, at the same path as here.
"""

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from fedtl.errors import ConfigError, FedTLError
from fedtl.models.state import State
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Labels
from fedtl.simulation import shared_store as parcel
from fedtl.simulation.engine import Job, UnexpectedFailure, WorkerContext, attempt
from fedtl.simulation.scheduler import in_order
from fedtl.simulation.worker import READY
from fedtl.training import threads as machine
from fedtl.training.silo import Silo

PATIENCE = 120.0  # seconds without any worker, after which nobody is expected to come back
KNOCK = 10.0  # seconds
STARTS = 3  # of a worker, one after another, that may fail
Packed = tuple[bytes, list[Any]]
_Given = tuple[
    str, bytes, PrivacyGuarantee | None, Labels
]  # what an actor is told of a silo beside its local state


class _RayWorker:
    """An actor: one worker's workplace, on whatever machine Ray gave it."""

    def __init__(self, furnish: Packed, threads: int) -> None:
        machine.set_threads(threads)
        self._furnish = furnish
        self._job_at, self._job = -1, None
        self._workplace: WorkerContext | None = None

    def ready(self) -> Any:
        """READY, or the error that ends the run."""
        try:
            self._workplace = parcel.unpack(*_own(self._furnish))()
        except FedTLError as error:
            return error
        return READY

    def do(self, number: int, job: Packed, own: _Given, local: Packed) -> Any:
        """The packed (result, local state, labels), a Mishap, or the error that ends the run."""
        assert self._workplace is not None
        if number != self._job_at:
            self._job_at, self._job = number, parcel.unpack(*_own(job))
        try:
            name, secret, guarantee, labels = own
            state = parcel.unpack(*_own(local))
            silo = Silo(name, self._workplace.data(name), state, secret, guarantee, labels)
            result = attempt(self._job, self._workplace.trainer, silo)  # type: ignore[arg-type]
        except FedTLError as error:
            return error
        return result if isinstance(result, UnexpectedFailure) else _packed((result, silo.local, silo.labels))


@dataclass
class _Worker:
    """One actor, what it was asked last (None: nothing), and the silo that it is at (None: idle)."""

    number: int
    actor: Any
    asked: Any
    ready: bool = False
    at: int | None = None
    starts: int = 1


class Cluster:
    """``workers`` 0: as many as the cluster has cores, or GPUs where ``device`` is cuda. ``address`` "": here."""

    def __init__(
        self, furnish: Callable[[], WorkerContext], workers: int, threads: int, address: str, device: str
    ) -> None:
        self.workers, self._threads = workers, threads
        self._furnish, self._address, self._on_gpu = furnish, address, device == "cuda"
        self._home: dict[str, int] = {}
        self._staff: list[_Worker] = []
        self._jobs = 0
        self._job: Any = None
        self._ours = False

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """As Engine.each. A silo whose machine went away is given to another."""
        self._jobs += 1
        self._job = ray.put(_packed(job))
        yield from in_order(self, silos, self._home)
        self._job = None

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            self._connect()
        resources: Any = ray.cluster_resources
        there = resources().get("GPU" if self._on_gpu else "CPU", 0)
        if not there:
            raise ConfigError("engine.name = 'ray': the cluster has no GPU; use --device cpu")
        self.workers = self.workers or int(there)
        self._place = ray.put(_packed(self._furnish))
        self._staff = [self._hire(number) for number in range(self.workers)]
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self._staff:
            ray.kill(worker.actor)
        if self._ours:
            ray.shutdown()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self._address:
            settings |= {"num_cpus": self.workers or None, "include_dashboard": False}
        try:
            if host := re.fullmatch(
                r"([\w.-]+):(\d{1,5})", self._address
            ):  # Ray itself would try for minutes
                socket.create_connection((host[1], int(host[2])), timeout=KNOCK).close()
            ray.init(self._address or "local", **settings)
        except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"engine.address = {self._address!r}: no Ray cluster answers there ({line})"
            ) from error
        self._ours = True

    def _hire(self, number: int) -> _Worker:
        needs = {"num_gpus": 1} if self._on_gpu else {"num_cpus": 1}
        remote: Any = ray.remote
        make = remote(_RayWorker).options(scheduling_strategy="SPREAD", **needs)
        actor = make.remote(self._place, self._threads)
        return _Worker(number, actor, actor.ready.remote())

    def idle(self) -> Iterator[int]:
        return (worker.number for worker in self._staff if worker.ready and worker.at is None)

    def hand(self, worker: int, at: int, silo: Silo) -> None:
        its = self._staff[worker]
        its.at = at
        own: _Given = silo.name, silo.secret, silo.guarantee, silo.labels
        its.asked = its.actor.do.remote(self._jobs, self._job, own, _packed(silo.local))

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """As Staff.answers. Raises what ends the run."""
        asked = {worker.asked: worker for worker in self._staff if worker.asked is not None}
        done, _ = ray.wait(list(asked), timeout=PATIENCE)
        if not done and not any(worker.ready for worker in self._staff):
            raise FedTLError(
                f"no worker came up on the Ray cluster within {PATIENCE:g} s: are its {self.workers} cores free?"
            )
        for reference in done:
            worker = asked[reference]
            answer = self._answer(worker)
            if answer == READY:
                worker.ready, worker.asked = True, None
                continue
            if isinstance(answer, FedTLError):
                raise answer
            at, worker.at = worker.at, None
            if isinstance(answer, UnexpectedFailure):
                if at is not None:
                    yield at, answer, ({}, {})
                continue
            worker.asked = None
            result, *own = parcel.unpack(*_own(answer))
            assert at is not None
            yield at, result, (own[0], own[1])

    def _answer(self, worker: _Worker) -> Any:
        """What the actor returned; a Mishap where it is gone, and another is on its way in its place."""
        try:
            return ray.get(worker.asked)
        except RayTaskError as error:  # of Ray's or ours, but not the job's: that would be a value
            raise FedTLError(f"a Ray worker failed: {error}") from error
        except RayError as error:  # the actor, its machine or its answer is lost
            line = (str(error).splitlines() or [type(error).__name__])[0]
            if worker.starts == STARTS and not worker.ready:
                raise FedTLError(f"a Ray worker died {STARTS} times while it started: {line}") from error
            new = self._hire(worker.number)
            worker.starts = 1 if worker.ready else worker.starts + 1
            worker.actor, worker.asked, worker.ready = new.actor, new.asked, False
            return UnexpectedFailure(f"its worker is gone ({line})")


def _packed(value: Any) -> Packed:
    """As arrays, which Ray keeps apart from its pickles and maps."""
    head, buffers = parcel.pack(value)
    return head, [np.frombuffer(buffer, np.uint8) for buffer in buffers]


def _own(packed: Packed) -> Packed:
    """What Ray maps cannot be written to, and tensors can."""
    head, buffers = packed
    return head, [buffer.copy() for buffer in buffers]
