"""
The only messages between a silo and the server, and the one way to serialise them. Flower's records, a site's stored state, a
stored private reply and a transcript all write what ``pack`` returns and read it with ``unpack``.

``unpack`` checks everything, because it is used on what a peer sent. Tensors may have any names, so state in addition to the
model needs no form of its own; the manifest and the policy decide whether a tensor is allowed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from fedtl.models.state import State
from fedtl.results.comparison import Verdict

MAX_TENSORS = 100_000
MAX_METRICS = 100
MAX_NAME_LENGTH = 1000  # the longest name of a tensor, in characters
MAX_FIELD_LENGTH = 40  # of the name of an unknown field in an error, in characters
MAX_TEXT_LENGTH = 200  # the longest name of a study, silo or metric, in characters


@dataclass(frozen=True)
class SpendEvent:
    """One charged use of a silo's data: ``steps`` noisy sums, each over a Poisson sample."""

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Task:
    """Server to silo: the shared tensors, and the round of the study (the first is 1)."""

    study: str
    round: int
    rounds: int
    seed: int
    shared: State


@dataclass(frozen=True)
class Update:
    """
    Silo to server: how much the shared tensors changed, and the weight of the update in the mean. ``delta``: as it is sent,
    which ``methods.wire`` says.

    ``metrics`` are of the received model as the silo would use it, on the silo's validation rows; never of test rows. The
    privacy cost of an update stays in the silo's ledger, because its sample rate would give away the number of rows.
    """

    silo: str
    round: int
    delta: State
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Silo to server: no update in this round, and why."""

    silo: str
    round: int
    reason: str


@dataclass(frozen=True)
class SiloVerdict:
    """Silo to server, at most once in a study, after the last round: whether joining helped it, and nothing else."""

    silo: str
    verdict: Verdict


def verdict_question(study: str, rounds: int, seed: int, shared: State) -> Task:
    """Return what a server sends to ask for a verdict: the shared tensors after the last round, as the task of the round after it."""
    return Task(study, rounds + 1, rounds, seed, shared)


TENSORS = {Task: "shared", Update: "delta"}
TYPES: dict[str, type] = {
    "study": str,
    "silo": str,
    "round": int,
    "rounds": int,
    "seed": int,
    "weight": float,
    "metrics": dict,
}

M = TypeVar("M", Task, Update)


def pack(message: Task | Update) -> tuple[dict[str, Any], State]:
    """The message's plain values by field, metrics as a dict of floats, and its tensors by name."""
    header = {name: getattr(message, name) for name in _plain_fields(type(message))}
    if isinstance(message, Update):
        header |= {
            "weight": float(message.weight),
            "metrics": {name: float(value) for name, value in message.metrics.items()},
        }
    return header, getattr(message, TENSORS[type(message)])


def unpack(kind: type[M], header: Mapping[str, Any], tensors: State) -> M:
    """
    The message that was packed. Raises ValueError where a field is missing, unknown or of another type, a metric is not
    finite, or a name or a count exceeds its limit. Of what came with the header, the error holds at most the name of a field.
    """
    names = _plain_fields(kind)
    if different := sorted(map(ascii, header.keys() ^ set(names))):
        raise ValueError(
            f"the fields of {kind.__name__} are {', '.join(names)}; the message differs in {different[0][:MAX_FIELD_LENGTH]}"
        )
    for name in names:
        if type(header[name]) is not TYPES[name]:
            raise ValueError(f"{name} is not of type {TYPES[name].__name__}")
        if isinstance(header[name], str) and len(header[name]) > MAX_TEXT_LENGTH:
            raise ValueError(f"{name} has more than {MAX_TEXT_LENGTH} characters")
    _check_metrics(header.get("metrics", {}))
    if len(tensors) > MAX_TENSORS or any(len(name) > MAX_NAME_LENGTH for name in tensors):
        raise ValueError(
            f"more than {MAX_TENSORS} tensors, or a name of more than {MAX_NAME_LENGTH} characters"
        )
    values: dict[str, Any] = {**header, TENSORS[kind]: tensors}
    return kind(**values)


def _check_metrics(metrics: Mapping[Any, Any]) -> None:
    if len(metrics) > MAX_METRICS:
        raise ValueError(f"metrics has more than {MAX_METRICS} entries")
    for name, value in metrics.items():
        if type(name) is not str or len(name) > MAX_TEXT_LENGTH:
            raise ValueError(f"a name in metrics is not a text of at most {MAX_TEXT_LENGTH} characters")
        if type(value) is not float or not math.isfinite(value):
            raise ValueError("a value in metrics is not a finite number")


def _plain_fields(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name != TENSORS[kind]]
