"""What a worker process does: it makes its context once, then runs jobs at one silo after another."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from fedtl.errors import FedTLError
from fedtl.models.state import State, copy_state
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import Fit, UnexpectedFailure, WorkerContext, try_job, type_and_text
from fedtl.simulation.mapped_pickle import read_mapped, write_mapped
from fedtl.simulation.stacked import Stacked
from fedtl.training import threads as machine
from fedtl.training.silo import Silo

STARTED, READY = "started", "ready"
UNGUARDED = 78  # exit code of a worker that ran into the call that had started it
CACHED_SILOS = 1024  # silos whose mapped data stays open in a worker: a few small objects each


@dataclass(frozen=True)
class SiloFacts:
    """All that a worker gets of a silo, except its data and its local state."""

    name: str
    secret: bytes
    guarantee: PrivacyGuarantee | None
    labels: Labels

    @classmethod
    def of(cls, silo: Silo) -> "SiloFacts":
        return cls(silo.name, silo.secret, silo.guarantee, silo.labels)


Answer = (
    UnexpectedFailure | tuple[Any, State, Labels]
)  # of a job at a silo: its result, and what the silo keeps


@dataclass(frozen=True)
class Order:
    """One job at some silos: the files of the job and of the silos' local states, and the file for the answers."""

    job: Path
    silos: Sequence[SiloFacts]
    locals: Path
    answers: Path


@contextmanager
def ignore_sigint() -> Iterator[None]:
    """Block SIGINT while child processes are started, so that only the parent handles Ctrl-C."""
    resource_tracker.ensure_running()  # otherwise the first child starts it, and it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_if_unguarded() -> None:
    """
    End a worker process that still imports its parent's script. It has reached the call that starts workers, so the script
    does not protect that call with ``if __name__ == "__main__"``; the parent reports this when it reads the exit code.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself checks
        raise SystemExit(UNGUARDED)


def failed_script(exit_code: int | None) -> str | None:
    """What to do where a worker ended while it imported its parent's script; None where it ended in another way."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if not script or exit_code not in (1, UNGUARDED):
        return None
    if not Path(script).is_file():
        return "worker processes import the script by its path, and this one came from standard input; save it in a file"
    return (
        f"{script}: each worker process imports this script first, and that failed (exit code {exit_code}); "
        'put the call under `if __name__ == "__main__":`'
    )


def become_worker(threads: int, number: int = 0) -> None:
    """Set up a worker process: its threads, its GPU, and that it ends when its parent does."""
    machine.set_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def serve(pipe: Connection, make_context: Path, threads: int, number: int, stack: int) -> None:
    """
    Send STARTED, then READY once the context is made, then for each Order None when its answers are written, or an error that
    ends the run. Ends when None is received. ``stack``: how many silos are trained at once.
    """
    pipe.send(STARTED)
    become_worker(threads, number)
    try:
        made: WorkerContext = read_mapped(make_context)()
    except FedTLError as error:
        pipe.send(error)
        return
    except Exception as error:
        pipe.send(FedTLError(f"a worker process cannot be set up: {type_and_text(error)}"))
        return
    context = replace(made, data=lru_cache(CACHED_SILOS)(made.data))
    stacked = Stacked(context.trainer, stack) if stack > 1 else None
    pipe.send(READY)
    path, job = None, None
    while (order := pipe.recv()) is not None:
        if order.job != path:
            path, job = order.job, read_mapped(order.job)
        pipe.send(_carry_out(order, job, context, stacked))


def _carry_out(order: Order, job: Any, context: WorkerContext, stacked: Stacked | None) -> FedTLError | None:
    try:
        answers = answers_of(job, context, order.silos, read_mapped(order.locals), stacked)
    except FedTLError as error:
        return error
    write_mapped(order.answers, answers)
    return None


def kept_apart(answer: Answer) -> tuple[Any, tuple[State, Labels]]:
    """Return a result, and what the silo keeps: no view, which would keep the answers of all silos in memory."""
    if isinstance(answer, UnexpectedFailure):
        return answer, ({}, {})
    result, local, labels = answer
    return result, (copy_state(local), labels)


def answers_of(
    job: Any,
    context: WorkerContext,
    silos: Sequence[SiloFacts],
    locals: Sequence[State],
    stacked: Stacked | None = None,
) -> list[Answer]:
    """
    Run a job at some silos with these local states, one after the other, or ``stacked`` where several are trained. Raises a
    FedTLError that ends the run.
    """
    members = (
        Silo(facts.name, context.data(facts.name), local, facts.secret, facts.guarantee, facts.labels)
        for facts, local in zip(silos, locals, strict=True)
    )
    if stacked and isinstance(job, Fit) and len(silos) > 1:
        together = list(members)
        results = dict(stacked.each(job, together))
        return [(results[silo.name], silo.local, silo.labels) for silo in together]
    answers = list[Answer]()
    for silo in members:
        result = try_job(job, context.trainer, silo)
        failed = isinstance(result, UnexpectedFailure)
        answers.append(result if failed else (result, silo.local, silo.labels))
    return answers
