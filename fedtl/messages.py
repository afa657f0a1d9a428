"""The only messages between a silo and the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl.models.state import State


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
    Silo to server: how much the shared tensors changed, and the weight of the update in the mean.

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
