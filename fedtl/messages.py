"""What crosses the wall of a silo. Nothing else does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl.models.state import State


@dataclass(frozen=True)
class SpendEvent:
    """One charged use of a silo's data: ``steps`` noisy gradients, each of a Poisson sample."""

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Task:
    """Server to silo: the shared tensors, and where in the study we are (round 1 is the first)."""

    study: str
    round: int
    rounds: int
    seed: int
    shared: State


@dataclass(frozen=True)
class Update:
    """
    Silo to server: how the shared tensors moved and with what weight they count.

    ``metrics`` are of the received model as the silo would use it, on the silo's validation rows; never of test rows. What a
    private update cost stays in the silo's ledger: the number of rows would follow from its sampling rate.
    """

    silo: str
    round: int
    delta: State
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Silo to server: no update this round."""

    silo: str
    round: int
    reason: str
