"""The life of a worker process: it builds its workplace once, then does one job at one silo after another."""

import os
import signal
import threading
from collections.abc import Iterator
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
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Labels
from fedtl.simulation import shared_store as parcel
from fedtl.simulation.engine import UnexpectedFailure, attempt
from fedtl.training import threads as machine
from fedtl.training.silo import Silo

READY = "ready"
KEPT = 1024  # silos whose data a worker does not look up again; it is mapped, so this is the size of a few objects


@dataclass(frozen=True)
class Order:
    """One silo's turn: where the job lies, who it is, where its local state lies, and where the result goes."""

    job: Path
    name: str
    secret: bytes
    guarantee: PrivacyGuarantee | None
    labels: Labels
    local: Path
    result: Path


@contextmanager
def ignore_sigint() -> Iterator[None]:
    """
    Processes started within never hear Ctrl-C, which is their parent's to handle; it hears it when the block ends.
    """
    resource_tracker.ensure_running()  # or the first process would start it, and it lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_worker(threads: int, number: int = 0) -> None:
    """What every worker process begins with; no worker outlives its parent."""
    machine.set_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def serve(pipe: Connection, furnish: Path, threads: int, number: int) -> None:
    """
    READY once, then for each Order: None when the result lies where it was asked for, or what went wrong, a
    Mishap or an error that ends the run. Ends when None comes in.
    """
    become_worker(threads, number)
    try:
        workplace = parcel.read(furnish)()
    except FedTLError as error:
        pipe.send(error)
        return
    place = replace(workplace, data=lru_cache(KEPT)(workplace.data))
    pipe.send(READY)
    job_at, job = None, None
    while (order := pipe.recv()) is not None:
        if order.job != job_at:
            job_at, job = order.job, parcel.read(order.job)
        pipe.send(_done(order, job, place))


def _done(order: Order, job: Any, workplace: Any) -> UnexpectedFailure | FedTLError | None:
    try:
        silo = Silo(
            order.name,
            workplace.data(order.name),
            parcel.read(order.local),
            order.secret,
            order.guarantee,
            order.labels,
        )
        result = attempt(job, workplace.trainer, silo)
    except FedTLError as error:
        return error
    if isinstance(result, UnexpectedFailure):
        return result
    parcel.write(order.result, (result, silo.local, silo.labels))
    return None
