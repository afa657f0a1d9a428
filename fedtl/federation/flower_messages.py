"""
Messages that were sent to silos over Flower's grid and have no reply yet, each with an end of its own.

A silo announces its reply before the reply's parts are there, and Flower's ``pull_messages`` waits for the parts of every announced
reply, one after the other. Where a silo dies while it sends, or its reply is cut off, they never come. So each reply is asked for
alone, in a thread of its own.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Thread
from typing import Generic, TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedtl._util.clock import ClockJumps, jump_text
from fedtl.federation.flower_pulls import give_up_after
from fedtl.federation.flower_replies import UnreadableReply, limit_replies
from fedtl.messages import Refusal, Task
from fedtl.models.state import size_in_bytes

log = logging.getLogger(__name__)
Reply = TypeVar("Reply")
MOST_PULLS = 4  # at a time, since each may have a reply in memory
STALLED_SECONDS = (
    10.0  # at most a tenth of the message's time, after which a pull is not counted: its parts may never come
)
PATIENCE = 0.25  # seconds for one pull, before the next one begins, too
GONE = (3, 4, 5)  # Flower's codes for a message, a reply or a silo that is not there any more
FAILED = 500  # the first code of HTTP for what is wrong at the SuperLink and not with the request
LAST_SECONDS = (
    2.0  # after its end, for a reply whose pull began before it; the pull itself looks once a second
)


@dataclass(frozen=True)
class _Open:
    """A message to a silo, which has until ``end``, ``seconds`` after it was sent. ``clock``: whether the clock was set since then."""

    silo: str
    node: int
    seconds: float
    end: float
    clock: ClockJumps


@dataclass(frozen=True)
class _Pull:
    """Where the reply to a message will be. ``stalled``: when the pull is not counted any more."""

    replies: Future[list[Message]]
    stalled: float


@dataclass
class OpenMessages(Generic[Reply]):
    """
    One task, sent as messages of one ``kind``. ``nodes`` returns the Flower node of each admitted silo. ``records`` writes the task and ``read``
    reads a reply. ``late``: what a silo that does not reply in time reads as well. ``members``: returns the nodes that may still reply; None:
    all may.
    """

    grid: Grid
    nodes: Callable[[], Mapping[str, int]]
    task: Task
    kind: str
    records: Callable[[Task], RecordDict]
    read: Callable[[Message, str, Task], Reply]
    late: str = ""
    members: Callable[[], Collection[int]] | None = None
    _open: dict[str, _Open] = field(default_factory=dict)
    _pulls: dict[str, _Pull] = field(default_factory=dict)  # those that are not over

    @property
    def waiting(self) -> frozenset[str]:
        """The silos whose reply is awaited."""
        return frozenset(one.silo for one in self._open.values())

    def send(self, silos: Sequence[str], seconds: float) -> Iterator[Refusal]:
        """Send the task to these silos, which have ``seconds`` to reply. Yield a refusal for each silo to which it cannot be sent."""
        nodes = self.nodes()
        admitted = [name for name in silos if name in nodes]
        for name in sorted(set(silos) - set(admitted)):
            yield self._refusal(name, "is no longer admitted")
        content, group = self.records(self.task), str(self.task.round)
        clock = ClockJumps()
        end = time.monotonic() + seconds  # not after Flower's, which begins with the message
        messages = [
            Message(content, nodes[name], self.kind, ttl=seconds, group_id=group) for name in admitted
        ]
        for name, sent in zip(admitted, self.grid.push_messages(messages), strict=True):
            if sent:
                self._open[sent] = _Open(name, nodes[name], seconds, end, clock)
            else:
                yield self._refusal(name, "Flower could not send it the task")

    def receive(self) -> Iterator[Reply | Refusal]:
        """
        Yield what has come, and then a refusal for each silo whose time is over. Each reply is read when it is pulled, so that no two wait
        in memory.
        """
        if not self._open:
            return
        give_up_after(max(one.end for one in self._open.values()) - time.monotonic())
        limit_replies(size_in_bytes(self.task.shared))
        waiting = set(self._pulls)
        yield from self._read_pulled()
        for sent in list(self._open):
            self._begin_pull(sent)
            yield from self._read_pulled()
        yield from self._expelled()
        now = time.monotonic()
        over = {sent: one for sent, one in self._open.items() if now >= one.end}
        wait([self._pulls[sent].replies for sent in over.keys() & self._pulls.keys()], LAST_SECONDS)
        announced = over.keys() & (waiting | self._pulls.keys())
        yield from self._read_pulled()
        for sent, one in sorted(over.items(), key=lambda item: item[1].silo):
            if sent in self._open:
                self._close(sent)
                missing = "no whole reply" if sent in announced else "no reply"
                yield self._refusal(one.silo, f"{missing} within {one.seconds:g} s{self.late}")

    def _expelled(self) -> Iterator[Refusal]:
        """Yield a refusal for each silo that may reply no more: the parts of a reply that it announced would be waited for in vain."""
        members = self.members() if self.members else {one.node for one in self._open.values()}
        for sent, one in list(self._open.items()):
            if one.node not in members:
                self._close(sent)
                yield self._refusal(one.silo, "was expelled before its whole reply came")

    def _begin_pull(self, sent: str) -> None:
        """
        Pull the reply to a message in a thread, and wait for it for up to ``PATIENCE``. No pull begins after the message's end, nor
        while ``MOST_PULLS`` others run.
        """
        now, one = time.monotonic(), self._open.get(sent)
        pulling = sum(now < each.stalled for each in self._pulls.values())
        if one is None or sent in self._pulls or now >= one.end or pulling >= MOST_PULLS:
            return
        self._open[sent] = self._open.pop(sent)  # the others are asked for before it next time
        replies = _in_thread(lambda: list(self.grid.pull_messages([sent])))
        self._pulls[sent] = _Pull(replies, now + min(STALLED_SECONDS, one.seconds / 10))
        wait([replies], PATIENCE)

    def _read_pulled(self) -> Iterator[Reply | Refusal]:
        """
        Yield what silos replied of all pulls that are over. No message is kept once it is read: its tensors would be in memory twice. Raises what
        a pull raised, unless it is what the silo sent.

        A pull is for one message, and the SuperLink has checked that the reply is of its silo. What the reply itself says of that can name
        another silo's message.
        """
        for sent in [sent for sent, each in self._pulls.items() if each.replies.done()]:
            pull, one = self._pulls.pop(sent).replies, self._open.get(sent)
            try:
                replies = _pulled(pull)
            except UnreadableReply as error:
                if one is not None:
                    self._close(sent)
                    log.info("%s: its reply cannot be read: %s", one.silo, error)
                    yield self._refusal(one.silo, "its reply cannot be read")
                continue
            # Of a message whose time is over Flower says an error code alone.
            if one is not None and replies and not (replies[0].has_error() and time.monotonic() >= one.end):
                self._close(sent)
                answer = self._lost_by_clock(replies[0], one) or self.read(replies.pop(), one.silo, self.task)
                yield answer
                del answer

    def _lost_by_clock(self, reply: Message, one: _Open) -> Refusal | None:
        """Return a refusal where Flower says that a message or its silo is gone, and the clock was set, by which Flower decides that; else None."""
        if reply.has_error() and reply.error.code in GONE and (jump := one.clock.since()):
            return self._refusal(
                one.silo, f"its task was lost, because the coordinator's clock was {jump_text(jump)}"
            )
        return None

    def _close(self, sent: str) -> None:
        del self._open[sent]
        self._pulls.pop(sent, None)

    def _refusal(self, silo: str, reason: str) -> Refusal:
        return Refusal(silo, self.task.round, f"{silo}: {reason}")


def _pulled(pull: Future[list[Message]]) -> list[Message]:
    """
    Return the replies of a pull that is over; none where the SuperLink failed at it, which may pass: it is asked again until the message's time
    is over. Raises UnreadableReply, and whatever else the pull raised.
    """
    try:
        return pull.result()
    except httpx.HTTPStatusError as error:
        if error.response.status_code < FAILED:
            raise
        log.warning(
            "the SuperLink failed at a reply (HTTP %d), and is asked again", error.response.status_code
        )
        return []


def _in_thread(pull: Callable[[], list[Message]]) -> Future[list[Message]]:
    """Start a thread that does not keep this process from ending, and return where its result will be."""
    future = Future[list[Message]]()

    def run() -> None:
        try:
            future.set_result(pull())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
