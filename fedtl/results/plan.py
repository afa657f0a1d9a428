"""What an experiment would do, known before anything is trained: ``fedtl show --json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fedtl.results.privacy import PrivacyReport


class Heads(StrEnum):
    """What the rounds do with heads: train them, or keep them at their initial weights or at a simplex."""

    TRAINED = "trained"
    FIXED = "fixed"
    SIMPLEX = "simplex"


@dataclass(frozen=True)
class TensorRow:
    """
    One tensor of the model, or, as "slot/name", of what the method keeps in addition. ``leaves``: whether it is sent to the server;
    ``sent``: the bytes that leave in each round, fewer where it is compressed. ``label``: under privacy, its provenance after the
    last round.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    bytes: int
    leaves: bool
    sent: int
    label: str | None = None


@dataclass(frozen=True)
class StatePart:
    """
    What a method keeps in addition to the model: a slot, or the summaries. ``tensors``: their number. ``leaves``: whether it is
    sent to the server.
    """

    name: str
    tensors: int
    bytes: int
    leaves: bool


@dataclass(frozen=True)
class ExperimentPlan:
    """
    ``experiment``: its settings, as in TOML. ``parts``: what the method keeps in addition to the model. ``bytes_*``: of one
    silo in one round. ``training``: the silos that train. ``notes``: on the model and its initial weights, a line each. ``refused``: why
    it would not be trained, a line each.
    """

    experiment: Mapping[str, Any]
    tensors: tuple[TensorRow, ...]
    parts: tuple[StatePart, ...]
    bytes_up: int
    bytes_down: int
    heads: Heads
    training: tuple[str, ...]
    privacy: PrivacyReport | None
    notes: tuple[str, ...]
    refused: tuple[str, ...]
