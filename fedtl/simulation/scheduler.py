"""
Which worker gets which silo, and what happens to a silo whose worker failed.

Does not depend on processes or machines: a WorkerPool lists idle workers, gives silos to them and returns their answers.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Protocol

from fedtl.errors import SiloFailed
from fedtl.models.state import State
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import MAX_ATTEMPTS, UnexpectedFailure, failed_repeatedly
from fedtl.training.silo import Silo

AHEAD_PER_WORKER = 2  # silos that may be under way or done before it is their turn


class WorkerPool(Protocol):
    """Workers by number. ``index`` is a silo's position in the order of the job."""

    @property
    def workers(self) -> int: ...

    def idle(self) -> Iterable[int]: ...

    def hand(self, worker: int, index: int, silo: Silo) -> None: ...

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """
        Wait for workers, then yield (index, result, the silo's local state and labels) for each silo that is done. For a
        silo that failed unexpectedly or whose worker died: an UnexpectedFailure and ({}, {}).
        """
        ...


def run_in_order(
    pool: WorkerPool, silos: Sequence[Silo], last_worker: MutableMapping[str, int]
) -> Iterator[tuple[str, Any]]:
    """
    Run the job as ``Engine.each`` does. ``last_worker``: the worker that last had each silo; the silo goes to it again if
    it is idle, because it has the silo's data mapped.
    """
    waiting, turn = list(range(len(silos))), 0
    done: dict[int, Any] = {}
    failures: Counter[int] = Counter()
    while turn < len(silos):
        for worker in pool.idle():
            allowed = waiting[: bisect_left(waiting, turn + AHEAD_PER_WORKER * pool.workers)]
            if allowed:
                index = next((i for i in allowed if last_worker.get(silos[i].name) == worker), allowed[0])
                waiting.remove(index)
                last_worker[silos[index].name] = worker
                pool.hand(worker, index, silos[index])
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
