"""The result of a comparison: ``comparison.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fedtl._util.records import FLAT
from fedtl.results.metrics import WorstSilo
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import UsedFile
from fedtl.results.tuning import Tuning

Interval = tuple[float, ...]  # the low and the high end


class Verdict(StrEnum):
    """
    What a gain over training alone is shown to be: so small that it does not matter (``AS_GOOD``), above zero, below zero, or
    none of these.
    """

    GAINS = "gains"
    AS_GOOD = "as good"
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
    """
    A method minus training alone in the main metric; above zero is better. ``ci95`` is for this gain alone. The ``verdict``
    follows from ``p`` (of a difference of zero) and ``p_as_good`` (of a difference of ``margin`` or more), which are
    corrected for the number of silos. ``detectable``: the smallest true gain that would be seen in 80 % of repetitions. None
    where there are too few rows. ``margin`` is in the unit of the metric.
    """

    mean: float
    ci95: Interval | None
    verdict: Verdict = Verdict.UNCLEAR
    p: float | None = None
    p_as_good: float | None = None
    detectable: float | None = None
    margin: float = 0.0


@dataclass(frozen=True)
class Benefit:
    """
    Whether joining helped one silo. In each run the silo takes the method that was best on its validation rows in that run;
    ``over_local`` is the gain of the methods taken, and ``best`` the one taken most often. ``chosen``: how often each was
    taken, where it is not always the same. The other fields are those of a ``Gain``.
    """

    best: str
    over_local: float
    ci95: Interval | None
    verdict: Verdict
    chosen: Mapping[str, int] = field(default_factory=dict)
    p: float | None = None
    p_as_good: float | None = None
    detectable: float | None = None
    margin: float = 0.0


@dataclass(frozen=True)
class LabelFreeChoice:
    """
    The method that a silo without labels takes, chosen as ``experiment.label_free_choice`` says, and
    its ``gain`` over the shared model with the silo's own statistics, which needs no rows without labels in training; None
    where this method is not compared. In each run the silo takes a method; ``best`` is the one taken most often, and
    ``chosen`` tells how often each was taken, where it is not always the same.
    """

    best: str
    gain: Gain | None = None
    chosen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WireCost:
    """
    A column whose silos send weights in fewer bytes, in the ``form`` of ``wire.dtype``, against the column of the same method
    ``in_full``: the bytes that all silos sent in a run (mean over runs), ``bytes_full`` that they would have sent without
    compression, and the mean ``gain`` over silos, below zero where compression costs; None where nothing is measured in both.
    """

    form: str
    in_full: str
    bytes_up: int
    bytes_full: int
    gain: Gain | None = None


@dataclass(frozen=True)
class Overall:
    """
    A method over all ``silos`` where it is compared with training alone: the ``mean`` gain; at how many silos the gain is above
    zero (``better``; its share is the incentivised participation rate of Bao et al., 2023), zero or above (``not_worse``),
    surely not below zero (``loss_excluded``: the interval lies at zero or above), or not shown to be below zero
    (``loss_not_shown``: the interval reaches zero); the number of silos by verdict; and the ``worst`` silo with its gain.
    """

    silos: int
    mean: Gain
    better: int
    not_worse: int
    loss_excluded: int
    loss_not_shown: int
    verdicts: Mapping[str, int]
    worst: str
    worst_gain: Gain


@dataclass(frozen=True)
class WhoHelps:
    """
    What each silo is worth to the others under one method (``column``): the main metric with all silos, minus that of the same method
    trained without one silo. ``gains``: by the silo that is left out, then by the silo that is scored; verdicts are corrected for the
    number of all these pairs. ``to_others``: the mean over the silos that are scored, by the silo that is left out, without correction.
    """

    column: str
    gains: Mapping[str, Mapping[str, Gain]]
    to_others: Mapping[str, Gain] = field(default_factory=dict)


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
    ``benefit``. ``chosen_on`` is None where no choice is allowed. ``overall``: each method over all silos; ``joining``: the
    methods that silos choose. Of silos without labels, ``over_source`` (by method) and ``label_free`` have what ``over_local``
    and ``benefit`` have of others. ``wire``: by method, what compression saves and costs. ``who_helps``: where ``compare.leave_one_out`` asks for it. ``folds``: how many runs share the rows of a seed. ``margin``: a smaller difference does not
    matter; of RMSE in standard deviations of the label. ``fingerprints``: by silo, of the rows, and ``files`` (``RunResult``).
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
    overall: Mapping[str, Overall] = field(default_factory=dict)
    joining: Overall | None = None
    over_source: Mapping[str, Mapping[str, Gain]] = field(default_factory=dict)
    label_free: Mapping[str, LabelFreeChoice] = field(default_factory=dict)
    wire: Mapping[str, WireCost] = field(default_factory=dict)
    who_helps: WhoHelps | None = None
    folds: int = 1
    margin: float = 0.0
    epochs: Mapping[str, int] = field(default_factory=dict)
    tuning: Mapping[str, tuple[Tuning, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    files: tuple[UsedFile, ...] = ()
    privacy: PrivacyReport | None = None
