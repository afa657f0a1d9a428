"""
Silos in several processes at once, each with a bench of its own.

A worker builds its bench once and reads a silo's data when it first meets it. The parent owns every silo's
local state: it sends it along and takes back what the job made of it, so no worker holds anything that a
killed process could lose. Results do not depend on which worker did what.
"""

import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import multiprocessing

from fedtl.errors import FedTLError, SiloFailed
from fedtl.silo import Bench, Silo, SiloData
from fedtl.simulate.engine import Job


@dataclass(frozen=True)
class Workplace:
    """What a worker needs: its bench, and how to come by a silo's data."""

    bench: Bench
    data: Callable[[str], SiloData]


class Processes:
    """``furnish`` makes a worker's workplace; it is sent to the workers, so it must be picklable."""

    def __init__(self, furnish: Callable[[], Workplace], workers: int, threads: int) -> None:
        self.workers = workers
        self._folder = tempfile.TemporaryDirectory(prefix="fedtl-", dir=_memory())
        self._jobs = 0
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(furnish, threads)
        )

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """As Engine.each. The job is written once, whatever the number of silos, and read once by each worker."""
        self._jobs += 1
        path = Path(self._folder.name) / f"job-{self._jobs}"
        path.write_bytes(pickle.dumps(job, protocol=pickle.HIGHEST_PROTOCOL))
        by_name = {silo.name: silo for silo in silos}
        waiting: dict[Future[Any], str] = {}
        try:
            for silo in silos:
                waiting[self._pool.submit(_work, str(path), silo.name, _packed(silo.local), silo.secret)] = (
                    silo.name
                )
            for future in as_completed(waiting):
                result, local = pickle.loads(future.result())
                if not isinstance(result, SiloFailed):
                    by_name[waiting[future]].local = local
                yield waiting[future], result
        except BrokenProcessPool as error:
            raise FedTLError(
                "a worker process died (killed, or out of memory?); go on with --resume, perhaps with fewer --workers"
            ) from error
        finally:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(wait=error[0] is None, cancel_futures=True)
        if error[0] is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._folder.cleanup()


_workplace: Workplace | None = None
_read: dict[str, SiloData] = {}
_job: tuple[str, Any] = ("", None)


def become_worker(threads: int) -> None:
    """What every worker process begins with: Ctrl-C is the parent's to handle, and no worker outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _begin(furnish: Callable[[], Workplace], threads: int) -> None:
    global _workplace
    become_worker(threads)
    _workplace = furnish()


def _work(path: str, name: str, local: bytes, secret: bytes) -> bytes:
    global _job
    assert _workplace is not None
    if _job[0] != path:
        _job = path, pickle.loads(Path(path).read_bytes())
    if name not in _read:
        _read[name] = _workplace.data(name)
    silo = Silo(name, _read[name], pickle.loads(local), secret)
    try:
        result = _job[1](_workplace.bench, silo)
    except SiloFailed as failure:
        result = failure
    return _packed((result, silo.local))


def _packed(value: Any) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def _memory() -> str | None:
    """A folder in memory where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
