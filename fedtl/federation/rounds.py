"""The server's side of a study: sample silos, ask them, check their replies and aggregate. It sees only updates."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedtl._util.randomness import numpy_generator
from fedtl.errors import NotEnoughSilos
from fedtl.federation.early_updates import EarlyUpdates, InMemory
from fedtl.federation.limits import NO_LIMITS, UpdateLimits
from fedtl.federation.policy import Code
from fedtl.federation.soup import next_soup, soup_rounds
from fedtl.messages import Refusal, Task, Update
from fedtl.methods.base import Memory, Server
from fedtl.methods.wire import FLOAT32, Encoding, Wire
from fedtl.models.roles import Role
from fedtl.models.state import State, euclidean_norm, size_in_bytes


class Federation(Protocol):
    """The silos as the server reaches them: in this process, over Flower, or recorded."""

    def silos(self) -> Sequence[str]:
        """The names of the silos that can be asked now."""
        ...

    def ask(self, task: Task, silos: Sequence[str]) -> Iterable[Update | Refusal]:
        """Send the task to these silos; their replies in any order, as they come."""
        ...


@dataclass(frozen=True)
class FederationConfig:
    """
    The coordinator's settings of a study. ``silos_per_round`` None: all silos. ``wire``: how silos send their weights.
    ``limits``: how much one update may count.
    """

    study: str
    seed: int
    rounds: int
    server: Server
    silos_per_round: int | None = None
    minimum_silos: int = 1
    wire: Wire = FLOAT32
    limits: UpdateLimits = NO_LIMITS


@dataclass(frozen=True)
class ServerState:
    """
    The server after ``round`` rounds: all that is needed to continue. ``memory`` is the state of the server's optimiser,
    ``soup`` the mean over the last rounds so far (``federation.soup``).
    """

    round: int
    shared: State
    memory: Memory = field(default_factory=dict)
    soup: State = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """The part of an update that the history keeps. ``weight``: as the silo stated it. ``norm``: Euclidean, of all its tensors."""

    weight: float
    norm: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Round:
    """
    The result of one round. ``left_out``: the reason for each silo whose reply does not count. Sizes in bytes; ``bytes_full``:
    what the silos would have sent without compression.
    """

    after: ServerState
    replies: Mapping[str, Reply]
    left_out: Mapping[str, str]
    bytes_down: int
    bytes_up: int
    bytes_full: int


def run_rounds(
    federation: Federation,
    config: FederationConfig,
    start: ServerState,
    roles: Mapping[str, Role],
    early: EarlyUpdates | None = None,
) -> Iterator[Round]:
    """
    Run the rounds from ``start.round`` + 1 to ``config.rounds``. Updates are added in the order of their silos' names,
    whichever came first, so that the sums have the same bits every time. ``early``: where an update waits for those before it; None: in
    memory. After the last round the shared tensors are the server's soup, if it makes one.

    Raises NotEnoughSilos when fewer than ``config.minimum_silos`` replies of a round are valid.
    """
    state, encoding, early = start, Encoding.of(config.wire, roles), early or InMemory()
    for number in range(start.round + 1, config.rounds + 1):
        chosen = _sample(federation.silos(), config, number)
        task = Task(config.study, number, config.rounds, config.seed, state.shared)
        log = _RoundLog()
        replies = _by_name(federation.ask(task, chosen), chosen, log.faults, early)
        updates = _valid_updates(replies, task, chosen, config, encoding, log)
        shared, memory = config.server(state.shared, updates, roles, state.memory)
        soup = next_soup(state.soup, shared, soup_rounds(config.server), number, config.rounds)
        state = ServerState(number, soup if soup and number == config.rounds else shared, memory, soup)
        yield Round(
            after=state,
            replies=log.replies,
            left_out=dict(sorted(log.faults.items())),
            bytes_down=len(chosen) * size_in_bytes(task.shared),
            bytes_up=log.bytes,
            bytes_full=len(log.replies) * size_in_bytes(task.shared),
        )


@dataclass
class _RoundLog:
    """The replies of a round, the faults of those that do not count, and the bytes received so far."""

    replies: dict[str, Reply] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


def _valid_updates(
    replies: Iterable[Update | Refusal],
    task: Task,
    asked: Sequence[str],
    config: FederationConfig,
    encoding: Encoding,
    log: _RoundLog,
) -> Iterator[Update]:
    """
    Yield the updates that count, decoded, one at a time. Raises NotEnoughSilos after the last one if there were fewer than
    ``config.minimum_silos``, so that a server step over them gives no result.
    """
    for reply in replies:
        decoded = _decoded_update(reply, task, encoding)
        if isinstance(reply, Refusal) or isinstance(decoded, str):
            log.faults[reply.silo] = str(decoded)
            continue
        norm = euclidean_norm(decoded.delta)
        if fault := config.limits.fault(reply.weight, norm):
            log.faults[reply.silo] = f"{reply.silo}: {fault}"
            continue
        log.replies[reply.silo] = Reply(reply.weight, norm, reply.metrics)
        log.bytes += size_in_bytes(reply.delta)
        yield replace(decoded, weight=config.limits.weight(reply.weight))
    if len(log.replies) < config.minimum_silos:
        resting = [name for name, fault in log.faults.items() if fault.endswith(f"({Code.HOURS})")]
        later = len(log.replies) + len(resting) >= config.minimum_silos
        raise NotEnoughSilos(_too_few(task, asked, config.minimum_silos, log), tuple(log.replies), later)


def _too_few(task: Task, asked: Sequence[str], minimum: int, log: _RoundLog) -> str:
    reasons = "; ".join(log.faults[name] for name in sorted(log.faults)) or "no reply came"
    unused = f"; not used: the updates of {', '.join(log.replies)}" if log.replies else ""
    return (
        f"round {task.round}: {len(log.replies)} of {len(asked)} replies are valid, "
        f"minimum_silos = {minimum}: {reasons}{unused}"
    )


def _by_name(
    replies: Iterable[Update | Refusal], asked: Sequence[str], faults: dict[str, str], early: EarlyUpdates
) -> Iterator[Update | Refusal]:
    """
    Yield one reply for each silo in the order of names, each as soon as those before it have come. Only updates that came
    too early are kept in ``early``. A second reply of a silo does not count.
    """
    turn, refusals, seen = deque(sorted(asked)), dict[str, Refusal](), set[str]()

    def take(name: str) -> Update | Refusal:
        return refusals.pop(name) if name in refusals else early.take(name)

    early.clear()
    try:
        for reply in replies:
            if reply.silo not in asked:
                faults[reply.silo] = f"{reply.silo}: was not asked in this round"
                continue
            if reply.silo in seen:
                faults[reply.silo] = f"{reply.silo}: sent more than one reply; only the first counts"
                continue
            seen.add(reply.silo)
            if turn and turn[0] == reply.silo:
                yield reply
                turn.popleft()
            elif isinstance(reply, Refusal):
                refusals[reply.silo] = reply
            else:
                early.keep(reply)
            del reply  # before the next one is read: its tensors would be in memory with it
            while turn and turn[0] in seen:
                yield take(turn.popleft())
        for name in turn:
            if name in seen:
                yield take(name)
    finally:
        early.clear()


def _sample(silos: Sequence[str], config: FederationConfig, number: int) -> list[str]:
    names = sorted(silos)
    if config.silos_per_round is None or config.silos_per_round >= len(names):
        return names
    draw = numpy_generator("silos", config.seed, number)
    return sorted(draw.choice(names, config.silos_per_round, replace=False).tolist())


def _decoded_update(reply: Update | Refusal, task: Task, encoding: Encoding) -> Update | str:
    """Return an update with decoded tensors, or the reason why the reply does not count."""
    if isinstance(reply, Refusal):
        return reply.reason or f"{reply.silo}: refused"
    if reply.round != task.round:
        return f"{reply.silo}: its update is for round {reply.round}, not {task.round}"
    try:
        delta = encoding.decode(reply.delta, task.shared)
    except ValueError as error:
        return f"{reply.silo}: {error}"
    return replace(reply, delta=delta) if encoding.compressed else reply
