"""Messages that were sent to silos over Flower's grid and have no reply yet, each with an end of its own."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedtl.messages import Refusal, Task

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class _Open:
    """A message to a silo, which has until ``end``, ``seconds`` after it was sent."""

    silo: str
    seconds: float
    end: float


@dataclass
class OpenMessages(Generic[Reply]):
    """
    One task, sent as messages of one ``kind``. ``nodes`` returns the Flower node of each admitted silo. ``records`` writes the task and ``read``
    reads a reply. ``late``: what a silo that does not reply in time reads as well.
    """

    grid: Grid
    nodes: Callable[[], Mapping[str, int]]
    task: Task
    kind: str
    records: Callable[[Task], RecordDict]
    read: Callable[[Message, str, Task], Reply]
    late: str = ""
    _open: dict[str, _Open] = field(default_factory=dict)

    @property
    def waiting(self) -> frozenset[str]:
        """The silos whose reply is awaited."""
        return frozenset(one.silo for one in self._open.values())

    def send(self, silos: Sequence[str], seconds: float) -> Iterator[Refusal]:
        """Send the task to these silos, which have so many seconds to reply; yield a refusal for each to which it cannot be sent."""
        nodes = self.nodes()
        admitted = [name for name in silos if name in nodes]
        for name in sorted(set(silos) - set(admitted)):
            yield self._refusal(name, "is no longer admitted")
        content, group = self.records(self.task), str(self.task.round)
        end = time.monotonic() + seconds  # not after Flower's, which begins with the message
        messages = [
            Message(content, nodes[name], self.kind, ttl=seconds, group_id=group) for name in admitted
        ]
        for name, sent in zip(admitted, self.grid.push_messages(messages), strict=True):
            if sent:
                self._open[sent] = _Open(name, seconds, end)
            else:
                yield self._refusal(name, "Flower could not send it the task")

    def receive(self) -> Iterator[Reply | Refusal]:
        """Yield what has come, and then a refusal for each silo whose time is over."""
        if not self._open:
            return
        replies = self.grid.pull_messages(list(self._open))
        now = time.monotonic()
        for reply in replies:
            sent = reply.metadata.reply_to_message_id
            one = self._open.get(sent)
            # Of a message whose time is over Flower says an error code alone.
            if one is not None and not (reply.has_error() and now >= one.end):
                del self._open[sent]
                yield self.read(reply, one.silo, self.task)
        over = {sent: one for sent, one in self._open.items() if now >= one.end}
        for sent, one in sorted(over.items(), key=lambda item: item[1].silo):
            del self._open[sent]
            yield self._refusal(one.silo, f"no reply within {one.seconds:g} s{self.late}")

    def _refusal(self, silo: str, reason: str) -> Refusal:
        return Refusal(silo, self.task.round, f"{silo}: {reason}")
