"""The trials of a comparison: what was tried on validation rows, and what was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrialResult:
    """
    ``trial.json``: the loss on each silo's validation rows; in regression divided by the variance of the silo's training
    labels, so that every silo counts alike whatever its unit. ``failed``: why there is no loss.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""

    @property
    def loss(self) -> float | None:
        """The plain mean over silos."""
        return sum(self.losses.values()) / len(self.losses) if self.losses and not self.failed else None


@dataclass(frozen=True)
class Trial:
    """One trial of a method: the values of its settings, by their path, and the plain mean of the losses over silos."""

    settings: Mapping[str, Any]
    loss: float | None
    failed: str = ""


@dataclass(frozen=True)
class Tuning:
    """The trials of a method under one seed, and one fold, and the values that were chosen by the lowest loss."""

    seed: int
    chosen: Mapping[str, Any]
    trials: tuple[Trial, ...]
    fold: int = 0
