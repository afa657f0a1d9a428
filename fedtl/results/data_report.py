"""What was read of an experiment's data, and how silos differ: ``fedtl data EXP --json`` and ``data.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SiloRows:
    """
    ``stored``: rows that the source has; ``train``, ``val`` and ``test``: those used, as inputs of the kind ``inputs``.
    ``without_label``: training and validation rows whose label is missing or not used. ``units``: the training units, where a
    column names them. ``labels``: training rows by label, as stored; ``trained``: those that are left to train on;
    ``values``: the range, mean and deviation of the target of a regression. ``kinds``: what becomes of
    columns that are not numbers. ``ignored``: columns of the file that are not inputs.
    ``unread``: what else was not read, and why. ``missing``: missing cells by column. ``constant``, ``counting``, ``running``,
    ``copies``, ``sentinels``, ``thousands`` (the fraction), ``decisive``, ``together`` and ``repeated``: as in ``data.facts``. ``tested_on_training_rows``: test rows with
    the inputs of a training row. ``near_leaked``: validation and test rows of the source with nearly those.
    """

    stored: int
    train: int
    val: int
    test: int
    inputs: str
    without_label: int = 0
    units: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    trained: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    counting: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    sentinels: Mapping[str, float] = field(default_factory=dict)
    thousands: Mapping[str, float] = field(default_factory=dict)
    decisive: Mapping[str, float] = field(default_factory=dict)
    repeated: int = 0
    tested_on_training_rows: int = 0
    near_leaked: int = 0
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class Separation:
    """
    How well a classifier tells two groups of rows apart by their inputs: the area under its ROC curve on rows that it was not
    trained on, 0.5 by chance, with the 95 % interval. ``rows``: of both groups together.
    """

    auc: float
    ci95: tuple[float, ...]
    rows: int


@dataclass(frozen=True)
class LabelShift:
    """
    How the labels of a silo's training rows differ from those of all others: half the sum of absolute differences of the
    shares (total variation), or in regression the largest difference of the distribution functions (Kolmogorov and Smirnov);
    0 to 1. ``p``: the probability of a difference as large by chance.
    """

    distance: float
    p: float


@dataclass(frozen=True)
class BetweenSilos:
    """
    How silos differ in their training rows. ``inputs``: each silo against all others together; ``pairs``: by "one, other", of few
    silos. ``labels``: by silo. ``differences``: by silo and feature, its mean minus the mean of all silos, in standard
    deviations. ``gaps``: by silo and column, the share of missing cells. ``leaked``: by "one, other", the test rows of one that have the inputs of a training row of the other.
    ``sampled``: the most rows of a silo that the classifier got; ``too_few``: silos with too few rows for it.
    """

    inputs: Mapping[str, Separation] = field(default_factory=dict)
    pairs: Mapping[str, Separation] = field(default_factory=dict)
    labels: Mapping[str, LabelShift] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gaps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    leaked: Mapping[str, int] = field(default_factory=dict)
    sampled: int = 0
    too_few: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recommendation:
    """What a person may do about ``silos``, the ``number`` that it follows from, and the ``rule``. No run reads it."""

    silos: tuple[str, ...]
    text: str
    number: float
    rule: str


@dataclass(frozen=True)
class DataReport:
    """
    ``common``: by "one, other", the training rows that two silos have in common; ``near_common``: that are nearly the same, where
    these are many. ``between``: how silos differ.
    ``notes``: what to look at first.
    """

    silos: Mapping[str, SiloRows]
    common: Mapping[str, int] = field(default_factory=dict)
    between: BetweenSilos = BetweenSilos()
    recommendations: tuple[Recommendation, ...] = ()
    notes: tuple[str, ...] = ()
    near_common: Mapping[str, int] = field(default_factory=dict)
