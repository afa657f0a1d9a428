"""
The server's side of a study: sample, ask, sort, check, aggregate. It holds no data and sees only updates.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedtl._util.randomness import numpy_generator
from fedtl.errors import NotEnoughSilos
from fedtl.messages import Refusal, Task, Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role
from fedtl.models.state import State, first_not_finite, size_in_bytes

HEAVIEST = 1e12  # examples; a weight beyond it would swallow the others or overflow their sum


class Federation(Protocol):
    """The silos, as the server can reach them: in this process, over Flower, or under an auditor's eye."""

    def silos(self) -> Sequence[str]: ...

    def ask(self, task: Task, silos: Sequence[str]) -> Iterable[Update | Refusal]: ...


@dataclass(frozen=True)
class FederationConfig:
    """What the coordinator decides beforehand. ``silos_per_round`` None: all of them."""

    study: str
    seed: int
    rounds: int
    server: ServerStep
    silos_per_round: int | None = None
    minimum_silos: int = 1


@dataclass(frozen=True)
class ServerState:
    """What the server has after ``round`` rounds; enough to go on from. ``memory`` is its optimiser's."""

    round: int
    shared: State
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What the history keeps of one update."""

    weight: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Round:
    """One round, as it went: where it led, who counted, who did not and why, and what crossed (bytes)."""

    after: ServerState
    replies: Mapping[str, Reply]
    left_out: Mapping[str, str]
    bytes_down: int
    bytes_up: int


def rounds(
    federation: Federation, plan: FederationConfig, start: ServerState, roles: Mapping[str, Role]
) -> Iterator[Round]:
    """
    The rounds from ``start.round`` + 1 to ``plan.rounds``. Replies count in the order of their silos' names,
    whichever came first.

    Raises NotEnoughSilos when fewer than ``plan.minimum_silos`` replies of a round are valid.
    """
    standing = start
    for number in range(start.round + 1, plan.rounds + 1):
        chosen = _sample(federation.silos(), plan, number)
        task = Task(plan.study, number, plan.rounds, plan.seed, standing.shared)
        count = _Count()
        updates = _valid(federation.ask(task, chosen), task, chosen, plan.minimum_silos, count)
        shared, memory = plan.server(standing.shared, updates, roles, standing.memory)
        standing = ServerState(number, shared, memory)
        yield Round(
            after=standing,
            replies=count.replies,
            left_out=dict(sorted(count.faults.items())),
            bytes_down=len(chosen) * size_in_bytes(task.shared),
            bytes_up=count.bytes,
        )


@dataclass
class _Count:
    """What a round's replies came to, written while they pass by."""

    replies: dict[str, Reply] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


def _valid(
    replies: Iterable[Update | Refusal], task: Task, asked: Sequence[str], minimum: int, count: _Count
) -> Iterator[Update]:
    """
    The updates that count, one at a time. Raises NotEnoughSilos at the end when they were fewer than ``minimum``,
    so that whoever takes them gets no result out of too few.
    """
    for reply in _by_name(replies, asked, count.faults):
        if fault := _fault(reply, task):
            count.faults[reply.silo] = fault
        elif isinstance(reply, Update):
            count.replies[reply.silo] = Reply(reply.weight, reply.metrics)
            count.bytes += size_in_bytes(reply.delta)
            yield reply
    if len(count.replies) < minimum:
        reasons = "; ".join(count.faults[name] for name in sorted(count.faults)) or "no reply came"
        raise NotEnoughSilos(
            f"round {task.round}: {len(count.replies)} of {len(asked)} replies are valid, "
            f"minimum_silos = {minimum}: {reasons}"
        )


def _by_name(
    replies: Iterable[Update | Refusal], asked: Sequence[str], faults: dict[str, str]
) -> Iterator[Update | Refusal]:
    """
    One reply a silo, in the order of names, each as soon as those before it are in. A second reply of a silo
    does not count; what is held back is only what came too early.
    """
    turn, early, seen = deque(sorted(asked)), dict[str, Update | Refusal](), set[str]()
    for reply in replies:
        if reply.silo not in asked:
            faults[reply.silo] = f"{reply.silo}: was not asked"
        elif reply.silo in seen:
            faults[reply.silo] = f"{reply.silo}: more than one reply in a round; the first one counts"
        else:
            seen.add(reply.silo)
            early[reply.silo] = reply
        while turn and turn[0] in early:
            yield early.pop(turn.popleft())
    for name in sorted(early):
        yield early.pop(name)


def _sample(silos: Sequence[str], plan: FederationConfig, number: int) -> list[str]:
    names = sorted(silos)
    if plan.silos_per_round is None or plan.silos_per_round >= len(names):
        return names
    draw = numpy_generator("silos", plan.seed, number)
    return sorted(draw.choice(names, plan.silos_per_round, replace=False).tolist())


def _fault(reply: Update | Refusal, task: Task) -> str | None:
    """Why a reply does not count; None if it does."""
    if isinstance(reply, Refusal):
        return reply.reason or f"{reply.silo}: refused"
    if reply.round != task.round:
        return f"{reply.silo}: answers round {reply.round}, not {task.round}"
    if wrong := reply.delta.keys() ^ task.shared.keys():
        return f"{reply.silo}: {sorted(wrong)[0]!r} is not what was asked for"
    for name, tensor in reply.delta.items():
        if tensor.shape != task.shared[name].shape or tensor.dtype != task.shared[name].dtype:
            return f"{reply.silo}: {name} is {tuple(tensor.shape)} {tensor.dtype}"
    if broken := first_not_finite(reply.delta):
        return f"{reply.silo}: {broken} is not finite"
    if not 0 < reply.weight <= HEAVIEST:
        return f"{reply.silo}: a weight of {reply.weight}"
    return None
