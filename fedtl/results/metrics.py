"""Metrics of a model on rows it was not trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl._util.records import FLAT


@dataclass(frozen=True)
class Measured:
    """
    ``figures`` by metric, and why each of the others is ``absent``: an undefined metric is never 0, and the reason says
    what the rows or the scores lack.
    """

    figures: Mapping[str, float] = field(metadata=FLAT)
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WorstSilo:
    """
    The silo with the worst value of the main metric, and of how many ``silos`` that have it. ``figures``: that one
    metric. All empty where no silo has it.
    """

    silo: str = ""
    figures: Mapping[str, float] = field(default_factory=dict, metadata=FLAT)
    silos: int = 0
