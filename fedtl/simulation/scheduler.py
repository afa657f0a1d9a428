"""
Which worker is handed which silo, and what becomes of a silo whose worker failed.

Knows nothing of processes or machines: whoever has workers says who is idle, hands out, and brings the answers.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Protocol

from fedtl.errors import SiloFailed
from fedtl.models.state import State
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import TRIES, UnexpectedFailure, failed_repeatedly
from fedtl.training.silo import Silo

AHEAD = 2  # silos a worker that may be done or under way before their turn


class WorkerPool(Protocol):
    """Workers, by number. ``at`` is a silo's place in the job's order."""

    @property
    def workers(self) -> int: ...

    def idle(self) -> Iterable[int]: ...

    def hand(self, worker: int, at: int, silo: Silo) -> None: ...

    def answers(self) -> Iterator[tuple[int, Any, tuple[State, Labels]]]:
        """
        Wait until something happens, then (at, result, the silo's local state and labels) of each silo that is done;
        for one that failed in a way nobody foresaw, or whose worker is gone, a Mishap and ({}, {}).
        """
        ...


def in_order(
    staff: WorkerPool, silos: Sequence[Silo], home: MutableMapping[str, int]
) -> Iterator[tuple[str, Any]]:
    """As Engine.each. ``home``: the worker that each silo was with last, and goes to again if that one is idle."""
    waiting, turn = list(range(len(silos))), 0
    done: dict[int, Any] = {}
    failed: Counter[int] = Counter()
    while turn < len(silos):
        for worker in staff.idle():
            within = waiting[: bisect_left(waiting, turn + AHEAD * staff.workers)]
            if within:
                at = next((at for at in within if home.get(silos[at].name) == worker), within[0])
                waiting.remove(at)
                home[silos[at].name] = worker
                staff.hand(worker, at, silos[at])
        if turn in done:
            yield silos[turn].name, done.pop(turn)
            turn += 1
            continue
        for at, result, own in staff.answers():
            if not isinstance(result, UnexpectedFailure):
                done[at] = result
                if not isinstance(result, SiloFailed):
                    silos[at].local, silos[at].labels = own
                continue
            failed[at] += 1
            if failed[at] < TRIES:
                insort(waiting, at)
            else:
                done[at] = failed_repeatedly(silos[at].name, result)
