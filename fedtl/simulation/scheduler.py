"""
Which worker gets which silos, and what happens to a silo whose worker failed.

Does not depend on processes or machines: a WorkerPool lists idle workers, gives silos to them and returns their answers. Many small
silos are given several at a time, because a message takes as long as training one of them.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from fedtl.errors import SiloFailed
from fedtl.models.state import State, size_in_bytes
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import MAX_ATTEMPTS, UnexpectedFailure, failed_repeatedly
from fedtl.training.silo import Silo

AHEAD_PER_WORKER = 2  # groups of silos that may be under way or done before it is their turn
MOST_AT_ONCE = 8
BYTES_AT_ONCE = 1 << 20  # of the tensors that go to a worker for a group, and about as many that come back


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


def most_at_once(job_bytes: int, silos: Sequence[Silo]) -> int:
    """Return how many silos a worker may get at a time, for a job of this size."""
    largest = job_bytes + max((size_in_bytes(silo.local) for silo in silos), default=0)
    return max(1, min(MOST_AT_ONCE, BYTES_AT_ONCE // max(1, largest)))


def run_in_order(
    pool: WorkerPool,
    silos: Sequence[Silo],
    last_worker: dict[str, int],
    most: int,
    stacks: Mapping[int, Sequence[int]] | None = None,
) -> Iterator[tuple[str, Any]]:
    """
    Run the job as ``Engine.each`` does. ``last_worker``: the worker that last had each silo; the silo goes to it again if
    it is idle, because it has the silo's data mapped. ``most``: how many silos a worker gets at a time; fewer towards the end, so that
    no worker waits for another's group. A silo that failed is done again alone, so that it takes no other one with it.
    ``stacks``: by silo, all silos that go to a worker with it, whatever the number of workers.
    """
    waiting, turn = list(range(len(silos))), 0
    done: dict[int, Any] = {}
    failures: Counter[int] = Counter()
    while turn < len(silos):
        for worker in pool.idle():
            allowed = waiting[: bisect_left(waiting, turn + AHEAD_PER_WORKER * pool.workers * most)]
            failed = [index for index in allowed if failures[index]][:1]
            known = [index for index in allowed if last_worker.get(silos[index].name) == worker]
            count = min(most, max(1, len(waiting) // (2 * pool.workers)))
            first = (known or allowed)[:1]
            if group := failed or (stacks[first[0]] if stacks and first else (known or allowed)[:count]):
                waiting = [index for index in waiting if index not in group]
                last_worker |= {silos[index].name: worker for index in group}
                pool.hand(worker, {index: silos[index] for index in group})
        if turn in done:
            yield silos[turn].name, done.pop(turn)
            turn += 1
            continue
        for index, result, own in pool.answers():
            if not isinstance(result, UnexpectedFailure):
                done[index] = result
                if not isinstance(result, SiloFailed):
                    silos[index].local, silos[index].labels = own
                continue
            failures[index] += 1
            if failures[index] < MAX_ATTEMPTS:
                insort(waiting, index)
            else:
                done[index] = failed_repeatedly(silos[index].name, result)
