"""
Which worker gets which silos, and what happens to a silo whose worker failed.

Does not depend on processes or machines: a WorkerPool lists idle workers, gives silos to them and returns their answers. Many small
silos are given several at a time, because a message takes as long as training one of them.
"""

import math
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedtl.errors import SiloFailed
from fedtl.models.state import State, size_in_bytes
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import MAX_ATTEMPTS, UnexpectedFailure, failed_repeatedly
from fedtl.training.silo import Silo

AHEAD_PER_WORKER = 2  # groups of silos that may be under way or done before it is their turn
MOST_AT_ONCE = 8
BYTES_AT_ONCE = 1 << 20  # of the tensors that go to a worker for a group; about the same number comes back
QUICK_SECONDS = (
    0.05  # of a silo: a worker may then wait for another's group, which costs less than further messages
)


class WorkerPool(Protocol):
    """Workers by number. ``index`` is a silo's position in the order of the job."""

    @property
    def workers(self) -> int: ...

    def idle(self) -> Iterable[int]: ...

    def hand(self, worker: int, silos: Mapping[int, Silo]) -> None:
        """Give the worker some silos by index; it does one after the other."""
        ...

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """
        Wait for workers, then yield (index, result, the silo's local state and labels) for each silo that is done. For a
        silo that failed unexpectedly, and for all that a worker had when it died: an UnexpectedFailure and ({}, {}).
        """
        ...


@dataclass
class History:
    """
    What earlier jobs have shown. ``worker``: which one last had each silo, whose data it has mapped. ``seconds``: the longest that a silo
    took, by kind of job; they decide how many silos a message has, never a result.
    """

    worker: dict[str, int] = field(default_factory=dict)
    seconds: dict[type, float] = field(default_factory=dict)

    def quick(self, kind: type) -> bool:
        return self.seconds.get(kind, math.inf) < QUICK_SECONDS


def most_at_once(job_bytes: int, silos: Sequence[Silo]) -> int:
    """Return how many silos a worker may get at a time, for a job of this size."""
    largest = job_bytes + max((size_in_bytes(silo.local) for silo in silos), default=0)
    return max(1, min(MOST_AT_ONCE, BYTES_AT_ONCE // max(1, largest)))


def run_in_order(
    pool: WorkerPool,
    silos: Sequence[Silo],
    history: History,
    kind: type,
    most: int,
    stacks: Mapping[int, Sequence[int]] | None = None,
) -> Iterator[tuple[str, Any]]:
    """
    Run a job of this ``kind`` as ``Engine.each`` does. A silo goes again to the worker that last had it, if that one is idle.
    ``most``: how many silos a worker gets at a time. A silo that failed is done again alone, so that it takes no other one with it.
    ``stacks``: by silo, all silos that go to a worker with it, whatever the number of workers.
    """
    waiting, turn = _Waiting(silos, history, most, history.quick(kind), stacks), 0
    done: dict[int, Any] = {}
    handed: dict[int, tuple[float, int]] = {}  # when, and with how many silos together
    longest = 0.0
    while turn < len(silos):
        idle = list(pool.idle())
        for place, worker in enumerate(idle):
            last = turn + AHEAD_PER_WORKER * pool.workers * most
            if group := waiting.take(worker, last, pool.workers, len(idle) - place):
                handed |= {index: (time.perf_counter(), len(group)) for index in group}
                pool.hand(worker, {index: silos[index] for index in group})
        if turn in done:
            yield silos[turn].name, done.pop(turn)
            turn += 1
            continue
        for index, result, own in pool.answers():
            if isinstance(result, UnexpectedFailure):
                if waiting.again(index):
                    continue
                result = failed_repeatedly(silos[index].name, result)
            elif not isinstance(result, SiloFailed):
                silos[index].local, silos[index].labels = own
            since, together = handed[index]
            longest = max(longest, (time.perf_counter() - since) / together)
            done[index] = result
    history.seconds[kind] = longest


class _Waiting:
    """
    The silos, by index, that no worker has. Groups become smaller towards the end, so that no worker waits for another's group;
    not where silos are ``quick``, since then messages cost more than waiting does.
    """

    def __init__(
        self,
        silos: Sequence[Silo],
        history: History,
        most: int,
        quick: bool,
        stacks: Mapping[int, Sequence[int]] | None,
    ) -> None:
        self._silos, self._last_worker, self._stacks = silos, history.worker, stacks
        self._most, self._quick = most, quick
        self._indices = list(range(len(silos)))
        self._failures: Counter[int] = Counter()

    def take(self, worker: int, last: int, workers: int, idle: int) -> Sequence[int]:
        """Return what the worker gets now, of silos below ``last``; ``idle``: how many workers have nothing, this one included."""
        allowed = self._indices[: bisect_left(self._indices, last)]
        if not allowed:
            return ()
        failed = [index for index in allowed if self._failures[index]][:1]
        known = [index for index in allowed if self._last_worker.get(self._silos[index].name) == worker]
        mine = known or allowed
        share = math.ceil(len(self._indices) / idle) if self._quick else len(self._indices) // (2 * workers)
        group = failed or (self._stacks[mine[0]] if self._stacks else mine[: min(self._most, max(1, share))])
        self._indices = [index for index in self._indices if index not in group]
        self._last_worker |= {self._silos[index].name: worker for index in group}
        return group

    def again(self, index: int) -> bool:
        """Note that a silo failed unexpectedly. Return whether it is done again."""
        self._failures[index] += 1
        if self._failures[index] == MAX_ATTEMPTS:
            return False
        insort(self._indices, index)
        return True
