"""What the stages of a body are worth at another silo: ``transferability.json``, and one silo's part of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fedtl.results.comparison import Interval
from fedtl.results.metrics import Measured


class Begin(StrEnum):
    """
    How a training at silo B begins (Yosinski et al., 2014). A is the model of the other silos, B the silo's own; the first
    n stages come from one of them, and all other weights are new. "+": nothing is frozen.
    """

    OWN = "own"  # from the first weights of a run: its own model
    NEW = "new"  # all weights are new and random: trained from scratch
    A = "AnB"
    A_TUNED = "AnB+"
    B = "BnB"
    B_TUNED = "BnB+"
    HELD = "held"  # the pretrained body is frozen, and the head trained


@dataclass(frozen=True)
class Training:
    """One training at a silo. ``loss``: on its validation rows; in regression divided by the variance of its labels."""

    begin: Begin
    stages: int
    loss: float | None
    test: Measured


@dataclass(frozen=True)
class StageMeasures:
    """
    One stage's output on the silo's own training rows; None where a measure is not defined. ``cka``: of the model of the others
    with the silo's own; ``cka_new``: of the silo's own with one from other random weights. ``logme`` and ``h_score``: of the
    model of the others, for the silo's labels.
    """

    cka: float | None = None
    cka_new: float | None = None
    logme: float | None = None
    h_score: float | None = None


@dataclass(frozen=True)
class SiloTransfer:
    """``transfer.json``: one silo under one seed."""

    silo: str
    seed: int
    trainings: tuple[Training, ...]
    measures: tuple[StageMeasures, ...]


@dataclass(frozen=True)
class Spread:
    """A mean over silos of means over seeds, with Student's 95 % interval over silos; None for one silo."""

    mean: float
    ci95: Interval | None
    silos: int


@dataclass(frozen=True)
class Point:
    """
    One way to begin with n stages. ``score``: the main metric on test rows. ``gain``: over training from scratch, with
    the same new weights; above zero is better. ``loss``: on validation rows, less that from scratch; below zero is better.
    """

    begin: Begin
    stages: int
    score: Spread | None
    gain: Spread | None
    loss: Spread | None


@dataclass(frozen=True)
class StageSpread:
    """The measures of a stage over silos and seeds."""

    cka: Spread | None = None
    cka_new: Spread | None = None
    logme: Spread | None = None
    h_score: Spread | None = None


@dataclass(frozen=True)
class Cut:
    """
    The recommended cut: the first ``stages`` are shared; 0: nothing. ``best``: the number of stages with the lowest validation
    loss. ``fragment``: the settings, as TOML.
    """

    stages: int
    best: int
    fragment: str


@dataclass(frozen=True, kw_only=True)
class Transferability:
    """
    ``transferability.json``. ``stages``: the names of their modules. ``silos``: those that were each left out once. ``deployed``: it is
    of sites, which judged on their validation rows; A is then the model that all of them trained, and none was left out.
    """

    fedtl: str
    task: str
    metric: str
    method: str
    model: str
    pretrained: bool
    rounds: int
    seeds: tuple[int, ...]
    silos: tuple[str, ...]
    stages: tuple[str, ...]
    points: tuple[Point, ...]
    measures: tuple[StageSpread, ...]
    by_silo: Mapping[str, tuple[Point, ...]]
    cut: Cut
    warnings: tuple[str, ...] = field(default=())
    seconds: float = 0.0
    deployed: bool = False
