"""
Tasks and updates as Flower's records, and the silos behind Flower's grid as a Federation.

Tensors travel as plain bytes with their shape and kind, and are read only where the three agree: nothing that comes
from a peer is unpickled, and nothing in it can ask for more memory than it brought. Must not know rows or silos' state.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedtl.errors import Denied, NotEnoughSilos
from fedtl.federation.policy import MEANING, Code
from fedtl.messages import Refusal, Task, Update
from fedtl.models.state import State, size_in_bytes

log = logging.getLogger(__name__)
KIND = "fedtl.raw"  # how tensors are written: their own bytes, little-endian
DTYPES = {
    str(its).removeprefix("torch."): its
    for its in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
    )
}
MOST = 100_000  # tensors in a message
FEW = 100  # metrics of a reply
LONGEST = 100  # characters of a name in a message
PAUSE = 1.0  # seconds between two looks at what has come


def arrays(state: State) -> ArrayRecord:
    return ArrayRecord({name: _array(state[name]) for name in sorted(state)})


def _array(tensor: torch.Tensor) -> Array:
    flat = tensor.detach().cpu().contiguous()
    data = flat.reshape(-1).view(torch.uint8).numpy().tobytes()
    return Array(str(flat.dtype).removeprefix("torch."), tuple(flat.shape), KIND, data)


def state_of(record: Any) -> State:
    """Raises ValueError for anything but plain tensors, whose bytes are as many as their shapes say."""
    if not isinstance(record, ArrayRecord) or len(record) > MOST:
        raise ValueError("no tensors, or too many")
    return {name: _tensor(its) for name, its in record.items()}


def _tensor(array: Array) -> torch.Tensor:
    dtype = DTYPES.get(array.dtype)
    if dtype is None or array.stype != KIND or len(array.shape) > 8 or any(size < 0 for size in array.shape):
        raise ValueError(f"an array of kind {array.stype[:20]!r}, type {array.dtype[:20]!r}")
    if math.prod(array.shape) * dtype.itemsize != len(array.data):
        raise ValueError(f"{len(array.data)} bytes are no {dtype} of that shape")
    if not array.data:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(bytearray(array.data), dtype=dtype).reshape(array.shape)


def task_records(task: Task) -> RecordDict:
    numbers: dict[str, Any] = {
        "study": task.study,
        "round": task.round,
        "rounds": task.rounds,
        "seed": task.seed,
    }
    return RecordDict({"task": ConfigRecord(numbers), "shared": arrays(task.shared)})


def task_of(content: RecordDict) -> Task:
    """Raises Denied for what is no task."""
    try:
        if set(content) != {"task", "shared"}:
            raise ValueError(f"{len(content)} records that are no task's")
        its: Any = content["task"]
        if odd := sorted(set(its) - {"study", "round", "rounds", "seed"}):
            raise ValueError(f"it sets {odd[0][:LONGEST]!r}, which is no task's")
        study, numbers = its["study"], [its[key] for key in ("round", "rounds", "seed")]
        if not isinstance(study, str) or not all(type(number) is int for number in numbers):
            raise ValueError("a task of other types")
        return Task(study, numbers[0], numbers[1], numbers[2], state_of(content["shared"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Denied(Code.TENSORS, f"the message is no task: {str(error)[:200]}") from error


def reply_records(reply: Update | Refusal) -> RecordDict:
    if isinstance(reply, Refusal):
        told: dict[str, Any] = {"silo": reply.silo, "round": reply.round, "code": str(reply.reason)}
        return RecordDict({"refusal": ConfigRecord(told)})
    told = {"silo": reply.silo, "round": reply.round, "weight": float(reply.weight)}
    return RecordDict(
        {
            "update": ConfigRecord(told),
            "delta": arrays(reply.delta),
            "metrics": MetricRecord({name: float(value) for name, value in reply.metrics.items()}),
        }
    )


def reply_of(message: Message, silo: str, task: Task) -> Update | Refusal:
    """What a silo replied, in words of our own where it is no update."""
    if message.has_error():
        return Refusal(silo, task.round, f"{silo}: {_fault(message.error.code)}")
    try:
        content: Any = message.content
        if set(content) == {"refusal"}:
            code = Code(content["refusal"]["code"])
            return Refusal(silo, task.round, f"{silo}: {MEANING[code]} ({code})")
        if set(content) != {"update", "delta", "metrics"}:
            raise ValueError
        its = content["update"]
        if its["silo"] != silo:
            return Refusal(
                silo, task.round, f"{silo}: replies by another name; one of the two is misconfigured"
            )
        delta = content["delta"]
        if sum(len(array.data) for array in delta.values()) > size_in_bytes(task.shared):
            return Refusal(silo, task.round, f"{silo}: sends more bytes than were asked for")
        if set(its) != {"silo", "round", "weight"} or len(content["metrics"]) > FEW:
            raise ValueError
        metrics = {str(name)[:LONGEST]: float(value) for name, value in content["metrics"].items()}
        if not all(map(math.isfinite, metrics.values())):
            raise ValueError
        return Update(silo, int(its["round"]), state_of(delta), float(its["weight"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refusal(silo, task.round, f"{silo}: its reply is no update")


def answer(message: Message, act: Callable[[Callable[[], Task]], Update | Refusal]) -> Message:
    """A ClientApp's whole work: ``act`` gets a way to read the task, and never an exception leaves."""
    try:
        reply = act(lambda: task_of(message.content))
    except Exception as error:  # Flower would send its text to the server
        log.error("the round failed before the home was open: %s", error)
        reply = Refusal("", 0, Code.FAILED)
    return Message(reply_records(reply), reply_to=message)


def _fault(code: int) -> str:
    """Flower's own errors, as far as they say anything; the texts that come with them are not repeated."""
    return {
        2: "its app failed (code 2)",
        5: "went away during the round (code 5)",
        7: "has not approved this bundle (code 7)",
        8: "its app stopped responding (code 8)",
    }.get(code, f"Flower says code {code}")


class OverFlower:
    """
    The silos behind a grid. ``nodes`` gives Flower's node of each admitted name, anew each round; ``deadline``: seconds
    for a round, and for ``minimum`` silos to be there. What comes later is dead: the message's time to live ends too.
    """

    def __init__(
        self, grid: Grid, nodes: Callable[[], Mapping[str, int]], minimum: int, deadline: float
    ) -> None:
        self.grid, self.nodes, self.minimum, self.deadline = grid, nodes, minimum, deadline

    def silos(self) -> Sequence[str]:
        """Those that are connected, once there are enough. Raises NotEnoughSilos."""
        end, said = time.monotonic() + self.deadline, False
        while True:
            online, admitted = set(self.grid.get_node_ids()), self.nodes()
            found = sorted(name for name, node in admitted.items() if node in online)
            if len(found) >= self.minimum:
                return found
            if time.monotonic() > end:
                away = ", ".join(sorted(admitted.keys() - set(found))) or "nobody else is admitted"
                raise NotEnoughSilos(
                    f"{len(found)} of {self.minimum} silos are connected after {self.deadline:g} s; away: {away}"
                )
            if not said:
                log.info("waiting for %d silos; connected: %s", self.minimum, ", ".join(found) or "none")
                said = True
            time.sleep(PAUSE)

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        end, nodes = time.monotonic() + self.deadline, self.nodes()
        content = task_records(task)
        messages = [
            Message(content, nodes[name], "train", ttl=self.deadline, group_id=str(task.round))
            for name in silos
        ]
        waiting: dict[str, str] = {}
        for name, sent in zip(silos, self.grid.push_messages(messages), strict=True):
            if sent:
                waiting[sent] = name
            else:
                yield Refusal(name, task.round, f"{name}: Flower took no message for it")
        del messages, content
        while waiting and time.monotonic() < end:
            for reply in self.grid.pull_messages(list(waiting)):
                if name := waiting.pop(reply.metadata.reply_to_message_id, ""):
                    yield reply_of(reply, name, task)
            if waiting:
                time.sleep(PAUSE)
        for name in sorted(waiting.values()):
            yield Refusal(
                name, task.round, f"{name}: no reply within {self.deadline:g} s; it is asked again next round"
            )
