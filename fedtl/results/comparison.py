"""The result of a comparison: ``comparison.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fedtl._util.records import FLAT
from fedtl.results.metrics import WorstSilo
from fedtl.results.privacy import PrivacyReport
from fedtl.results.tuning import Tuning

Interval = tuple[float, ...]  # the low and the high end


class Verdict(StrEnum):
    """What the 95 % interval of a gain says: above zero, below it, or neither."""

    GAINS = "gains"
    LOSES = "loses"
    UNCLEAR = "unclear"


class ChosenOn(StrEnum):
    """What a silo's best method is chosen on."""

    VALIDATION = "validation rows"
    RELEASED = "released accuracy"


@dataclass(frozen=True)
class Estimate:
    """
    A metric on test rows: its mean over seeds, the 95 % interval (None where it is undefined), and the value of each seed.
    ``silos``: where it is a mean over silos too, how many have the metric.
    """

    mean: float
    ci95: Interval | None
    seeds: tuple[float, ...]
    silos: int | None = None


@dataclass(frozen=True)
class Gain:
    """A method minus training alone in the main metric; above zero is better."""

    mean: float
    ci95: Interval | None


@dataclass(frozen=True)
class Benefit:
    """Whether joining helped one silo: its ``best`` method, and that method's gain over training alone."""

    best: str
    over_local: float
    ci95: Interval | None
    verdict: Verdict


@dataclass(frozen=True)
class Average:
    """A metric's mean over seeds, and the value of each."""

    mean: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Averages:
    """Metrics over seeds, and why others are ``absent``."""

    figures: Mapping[str, Average] = field(metadata=FLAT)
    absent: Mapping[str, str] = field(default_factory=dict)


BySilo = Mapping[str, Averages]
WaysBySilo = Mapping[str, Mapping[str, Averages]]  # by silo, and by the way in which the model is used


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """
    ``comparison.json``. By method: ``methods`` (then by silo and metric), ``mean`` (by metric), ``worst``, ``over_local``
    (by silo), ``absent`` (by silo and metric: why there is no value), ``received``, ``refitted``, ``target`` and ``late`` (see
    ``SiloResult`` and ``RunResult``), ``epochs`` (that a silo trains) and ``tuning`` (the trials of its settings). By silo:
    ``benefit``. ``chosen_on`` is None where no choice is allowed.
    """

    fedtl: str
    task: str
    metric: str
    model: str
    rounds: int
    seeds: tuple[int, ...]
    methods: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    mean: Mapping[str, Mapping[str, Estimate]]
    worst: Mapping[str, WorstSilo]
    chosen_on: ChosenOn | None
    benefit: Mapping[str, Benefit]
    over_local: Mapping[str, Mapping[str, Gain]]
    warnings: tuple[str, ...]
    absent: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    received: Mapping[str, BySilo] = field(default_factory=dict)
    refitted: Mapping[str, BySilo] = field(default_factory=dict)
    target: Mapping[str, WaysBySilo] = field(default_factory=dict)
    late: Mapping[str, WaysBySilo] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    tuning: Mapping[str, tuple[Tuning, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    privacy: PrivacyReport | None = None
