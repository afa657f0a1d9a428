"""What a page shows in addition to the result: figures made from the stored answers to test rows, and how the result is repeated."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl.results.comparison import Gain, Interval


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a silo were used for each purpose."""

    train: int
    val: int
    test: int


@dataclass(frozen=True)
class CalibrationBin:
    """Test rows whose predicted class has a similar probability: their number, the mean probability, and the share that is right."""

    rows: int
    probability: float
    right: float


@dataclass(frozen=True)
class SiloAnswers:
    """
    What a silo's model answered on its test rows. ``confusion`` [K][K]: the number of rows by their class and by the predicted one.
    ``calibration``: by the probability of the predicted class, without empty bins. ``recall`` [K]: the 95 % interval of the share of
    each class that is recognised (Wilson, 1927, rows taken as independent); None for a class without rows.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[CalibrationBin, ...]
    recall: tuple[Interval | None, ...] = ()


@dataclass(frozen=True)
class ClassRecall:
    """
    The test ``rows`` of one class over all seeds, and the share that is recognised by training ``alone`` and by the ``best`` method.
    ``gain``: the difference, paired by seed and row, with its verdict corrected for all classes of all silos; None where a seed has no
    row of the class.
    """

    rows: int
    alone: float
    best: float
    gain: Gain | None = None


@dataclass(frozen=True)
class Origin:
    """``repeat``: the command that repeats the result in its folder; ``made_with``: versions of what made the page, by name."""

    repeat: str
    made_with: Mapping[str, str]


@dataclass(frozen=True)
class RunFacts:
    """
    Of a run. ``sent``: the bytes that leave a silo in each round, by role. ``answers``: by silo, of models that choose one class.
    ``epsilon``: of a private run, by silo and round, what its rounds have cost so far, as its ledger records.
    """

    origin: Origin
    sent: Mapping[str, int]
    answers: Mapping[str, SiloAnswers] = field(default_factory=dict)
    epsilon: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonFacts:
    """
    Of a comparison. ``rows``: by silo, in the first run of training alone. ``sent``: by method that a silo
    chooses and by role, the bytes that leave a silo in each round. ``recall``: by silo
    and class, where one class is chosen. ``one_run``: the folder of one of its runs, relative to that of the comparison.
    """

    origin: Origin
    rows: Mapping[str, RowCounts]
    sent: Mapping[str, Mapping[str, int]]
    recall: Mapping[str, Mapping[str, ClassRecall]] = field(default_factory=dict)
    one_run: str = ""


@dataclass(frozen=True)
class FeaturePoint:
    """One test row in the plane of the two directions in which features vary most."""

    silo: str
    label: str
    x: float
    y: float


@dataclass(frozen=True)
class FeatureMap:
    """
    Features of test rows of all silos by one kind of model. ``explained``: the share of the variance of the features in each of the two
    directions.
    """

    points: tuple[FeaturePoint, ...]
    explained: tuple[float, ...]


@dataclass(frozen=True)
class Features:
    """
    Features ``before`` training, by the initial model (None where it was pretrained in the run and no file has it), and ``after``, by each
    silo's final model. ``statistics``: by silo, how far its
    normalisation statistics are from the mean over silos, in standard deviations; {} for a model without any.
    """

    before: FeatureMap | None
    after: FeatureMap
    statistics: Mapping[str, float] = field(default_factory=dict)
