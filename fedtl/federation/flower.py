"""
Tasks and updates as Flower's records, and the silos behind Flower's grid as a Federation.

The tensors of a message travel as one safetensors file in one array, because Flower sends every array, and every 5 MiB of
one, in a request of its own. Nothing from a peer is unpickled. This module must not depend on rows or silos' state.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedtl._util.pace import Pace
from fedtl._util.tensors import MAX_DIMENSIONS
from fedtl.errors import Denied, NotEnoughSilos
from fedtl.federation.flower_messages import OpenMessages
from fedtl.federation.flower_pulls import ask_again_soon
from fedtl.federation.flower_replies import MAX_HEADER_BYTES, check_replies
from fedtl.federation.policy import MEANING, Code
from fedtl.messages import MAX_TENSORS, Refusal, SiloVerdict, Task, Update, pack, unpack
from fedtl.models.state import State, size_in_bytes
from fedtl.results.comparison import Verdict

log = logging.getLogger(__name__)
KIND = "fedtl.safetensors"  # how tensors are written
ARRAY = "tensors"  # the name of the only array of a record
LENGTH_BYTES = 8  # of a safetensors file, before its header
DTYPES = frozenset(
    {
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int8, torch.uint8),
    }
)
MAX_TASK_BYTES = 1 << 34
TRAIN, ASK_VERDICT = "train", "query"  # Flower's types of a message
CONNECT_SECONDS = 1.0  # between two questions which silos are connected
SHORTEST_POLL, LONGEST_POLL = 0.2, 1.0  # seconds between two looks for replies
SILO_POLL = 0.02  # at least this for each silo, because each look for its reply is a request to the SuperLink
# Flower's own error codes. The texts that a peer sends with them are not repeated.
FLOWER_ERRORS = {
    2: "its app failed (code 2)",
    3: "its reply arrived incomplete (code 3)",
    5: "disconnected during the round (code 5)",
    7: "has not approved this bundle (code 7)",
    8: "its app stopped responding (code 8)",
}


def array_record(state: State) -> ArrayRecord:
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    return ArrayRecord({ARRAY: Array("uint8", (len(content),), KIND, content)})


def read_tensors(record: Any, max_bytes: int) -> State:
    """
    Return the tensors of an ArrayRecord, by name in alphabetical order. Raises ValueError for anything but a safetensors file of
    ``DTYPES``, and for more than ``max_bytes`` of tensors, before any of it is copied.
    """
    content = _content(record)
    if (size := _tensor_bytes(content)) > max_bytes:
        raise ValueError(f"{size} bytes of tensors, more than {max_bytes} bytes")
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"not tensors: {error}") from error
    if len(state) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} tensors")
    for tensor in state.values():
        if tensor.dtype not in DTYPES or tensor.dim() > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {tensor.dim()} dimensions and type {tensor.dtype}")
    return {name: state[name] for name in sorted(state)}


def _content(record: Any) -> bytes:
    """Return the safetensors file in a record. Raises ValueError for any other record."""
    if not isinstance(record, ArrayRecord) or set(record) != {ARRAY} or record[ARRAY].stype != KIND:
        raise ValueError(f"not one array of kind {KIND}")
    return bytes(record[ARRAY].data)


def _tensor_bytes(content: bytes) -> int:
    """Return how many bytes of tensors a safetensors file has, by its first bytes. Raises ValueError for a header that is too long."""
    header = int.from_bytes(content[:LENGTH_BYTES], "little")
    if header > min(MAX_HEADER_BYTES, len(content)):
        raise ValueError(f"a header of {header} bytes")
    return len(content) - LENGTH_BYTES - header


def task_to_records(task: Task) -> RecordDict:
    header, tensors = pack(task)
    return RecordDict({"task": ConfigRecord(header), "shared": array_record(tensors)})


def task_from_records(content: RecordDict) -> Task:
    """The task of a message. Raises Denied for a message that is not a task."""
    try:
        if set(content) != {"task", "shared"}:
            raise ValueError(f"{len(content)} records, which are not those of a task")
        header: Any = content["task"]
        return unpack(Task, dict(header), read_tensors(content["shared"], MAX_TASK_BYTES))
    except (ValueError, KeyError, TypeError) as error:
        raise Denied(Code.TENSORS, f"the message is not a task: {str(error)[:200]}") from error


def reply_to_records(reply: Update | SiloVerdict | Refusal) -> RecordDict:
    if isinstance(reply, Refusal):
        refusal = ConfigRecord({"silo": reply.silo, "round": reply.round, "code": str(reply.reason)})
        return RecordDict({"refusal": refusal})
    if isinstance(reply, SiloVerdict):
        return RecordDict({"verdict": ConfigRecord({"silo": reply.silo, "verdict": str(reply.verdict)})})
    header, tensors = pack(reply)
    metrics = MetricRecord(header.pop("metrics"))
    return RecordDict({"update": ConfigRecord(header), "delta": array_record(tensors), "metrics": metrics})


def reply_from_message(message: Message, silo: str, task: Task) -> Update | Refusal:
    """
    What a silo replied; a Refusal with a reason of our own where it is not an update. Never raises, whatever the peer
    sends.
    """
    if message.has_error():
        number = message.error.code
        reason = FLOWER_ERRORS.get(number, f"Flower reports code {number}")
        return Refusal(silo, task.round, f"{silo}: {reason}")
    try:
        content: Any = message.content
        if set(content) == {"refusal"}:
            code = Code(content["refusal"]["code"])
            return Refusal(silo, task.round, f"{silo}: {MEANING[code]} ({code})")
        if set(content) != {"update", "delta", "metrics"}:
            raise ValueError("other records")
        if content["update"]["silo"] != silo:
            return Refusal(
                silo, task.round, f"{silo}: its reply has another silo's name; check `name` in both silo.toml"
            )
        asked = size_in_bytes(task.shared)
        if (size := _tensor_bytes(_content(content["delta"]))) > asked:
            return Refusal(
                silo,
                task.round,
                f"{silo}: its update has {size:,} bytes, more than the {asked:,} of the task's tensors",
            )
        header = {**content["update"], "metrics": dict(content["metrics"])}
        return unpack(Update, header, read_tensors(content["delta"], asked))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.info("%s: its reply is not an update: %s", silo, str(error)[:200])
        return Refusal(silo, task.round, f"{silo}: its reply is not an update")


def verdict_from_message(message: Message, silo: str, question: Task) -> SiloVerdict | Refusal:
    """What a silo replied; a Refusal where it is not one of the four words. Never raises, whatever the peer sends."""
    if not message.has_error():
        try:
            content: Any = message.content
            answer = dict(content["verdict"])
            if (
                set(content) == {"verdict"}
                and answer.keys() == {"silo", "verdict"}
                and answer["silo"] == silo
            ):
                return SiloVerdict(silo, Verdict(answer["verdict"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
    refusal = reply_from_message(message, silo, question)
    return (
        refusal if isinstance(refusal, Refusal) else Refusal(silo, question.round, f"{silo}: sent no verdict")
    )


def answer_message(
    message: Message, act: Callable[[Callable[[], Task]], Update | SiloVerdict | Refusal]
) -> Message:
    """
    The reply of a ClientApp. ``act`` gets a function that reads the task. No exception leaves, because Flower would send
    its text to the server.
    """
    try:
        reply = act(lambda: task_from_records(message.content))
    except Exception as error:
        log.error("the round failed before the site's folder was open: %s", error)
        reply = Refusal("", 0, Code.FAILED)
    return Message(reply_to_records(reply), reply_to=message)


class FlowerFederation:
    """
    The silos behind a grid. ``nodes`` returns the Flower node of each admitted silo, anew each round; ``deadline``: seconds
    for a round, and for ``minimum`` silos to connect. A later reply is dropped: the message's time to live ends too. ``former``: the
    silos of the last round, for which a round waits up to ``grace`` seconds, so that after a partition the first one to
    reconnect does not train alone. ``members``: returns the nodes that may still reply, those that are asked no more included; None: all may.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Callable[[], Mapping[str, int]],
        minimum: int,
        deadline: float,
        former: Iterable[str] = (),
        grace: float = 0.0,
        members: Callable[[], Collection[int]] | None = None,
    ) -> None:
        ask_again_soon()
        check_replies()
        self.grid, self.nodes, self.minimum, self.deadline = grid, nodes, minimum, deadline
        self.former, self.grace, self.members = frozenset(former), grace, members
        self._away: frozenset[str] = frozenset()

    def silos(self) -> Sequence[str]:
        """
        The connected silos, once there are ``minimum``, and once those of the last round are there or ``grace`` is over. Raises
        NotEnoughSilos after the deadline.
        """
        begun, logged = time.monotonic(), False
        while True:
            online, admitted = set(self.grid.get_node_ids()), self.nodes()
            connected = sorted(name for name, node in admitted.items() if node in online)
            self._away = frozenset(admitted.keys() - set(connected))
            waited = time.monotonic() - begun
            if len(connected) >= self.minimum and (not self.former & self._away or waited >= self.grace):
                self.former = frozenset(connected)
                return connected
            if waited > self.deadline and len(connected) < self.minimum:
                away = ", ".join(sorted(self._away)) or "no other silo is admitted"
                raise NotEnoughSilos(
                    f"{len(connected)} of {self.minimum} silos are connected after {self.deadline:g} s; not connected: "
                    f"{away}; start these silos, or wait longer"
                )
            if not logged:
                log.info("waiting for %s; connected: %s", self._awaited(), ", ".join(connected) or "none")
                logged = True
            time.sleep(CONNECT_SECONDS)

    def _awaited(self) -> str:
        former = ", ".join(sorted(self.former & self._away))
        return f"{self.minimum} silos" + (f", and {self.grace:g} s for {former}" if former else "")

    def away(self) -> Mapping[str, str]:
        """The admitted silos that were not connected when ``silos`` returned, each with a sentence."""
        return {name: f"{name}: is not connected" for name in sorted(self._away)}

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        """Send the task to these silos and yield their replies as they come, one for each silo."""
        late = "; it is asked again next round"
        messages = OpenMessages(
            *(self.grid, self.nodes, task, TRAIN, task_to_records, reply_from_message, late, self.members)
        )
        yield from messages.send(silos, self.deadline)
        pace = Pace(SHORTEST_POLL, LONGEST_POLL)
        while messages.waiting:
            yield from messages.receive()
            if messages.waiting:
                time.sleep(max(pace.pause, SILO_POLL * len(messages.waiting)))

    def questions(self, question: Task) -> "VerdictQuestions":
        """The question whether joining helped, to be sent to silos one by one."""
        return VerdictQuestions(
            self.grid, self.nodes, question, ASK_VERDICT, task_to_records, verdict_from_message
        )


class VerdictQuestions(OpenMessages[SiloVerdict | Refusal]):
    """The question whether joining helped, as it was sent to silos, and what they answer."""

    def send(self, silos: Sequence[str], seconds: float) -> Iterator[Refusal]:
        """As of ``OpenMessages``, and a refusal for each silo that is not connected."""
        online, nodes = set(self.grid.get_node_ids()), self.nodes()
        away = [name for name in silos if name in nodes and nodes[name] not in online]
        for name in away:
            yield self._refusal(name, "is not connected")
        if asked := [name for name in silos if name not in away]:
            yield from super().send(asked, seconds)
