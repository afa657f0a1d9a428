"""The result of onboarding a silo that did not train: ``onboard.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Interval = tuple[float, ...]  # the low and the high end


@dataclass(frozen=True)
class Difference:
    """A mean difference in accuracy over the same ``episodes``, with its 95 % interval (None for one episode)."""

    mean: float
    ci95: Interval | None
    episodes: int


@dataclass(frozen=True)
class HeadScore:
    """
    A head on the test rows: the accuracy of each episode, their mean and 95 % interval over episodes (None for one or two), and the
    mean log loss in nats. ``held_out``: the mean accuracy on support rows that the head was made without; None where none can be
    left out. ``over_alone`` and ``over_prototype``: minus the silo's own model, and minus the nearest prototype, on the same
    episodes.
    """

    mean: float
    ci95: Interval | None
    episodes: tuple[float, ...]
    loss: float
    held_out: float | None = None
    over_alone: Difference | None = None
    over_prototype: Difference | None = None


@dataclass(frozen=True)
class ShotsResult:
    """
    One number of labelled rows a class. ``rows``: of one support set. ``short``: the classes that have fewer rows, with their
    number. ``heads``: "chosen" is, in each episode, the head that its support chose, and ``chosen`` how often each was.
    """

    shots: int
    rows: int
    episodes: int
    heads: Mapping[str, HeadScore]
    short: Mapping[str, int] = field(default_factory=dict)
    chosen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OnboardResult:
    """
    ``onboard.json``. ``method`` and ``model``: of the backbone. ``classes``: of the silo; ``new_classes``: those that no silo
    which trained had; ``missing_classes``: those without a labelled training row, whose test rows count as wrong. ``left_out``: why a head
    is not here. ``resembles``: by silo of the run, the distance between its prototypes and those of this silo.
    """

    fedtl: str
    backbone: str
    method: str
    model: str
    silo: str
    train: int
    test: int
    seed: int
    classes: tuple[str, ...]
    new_classes: tuple[str, ...] = ()
    missing_classes: tuple[str, ...] = ()
    shots: tuple[ShotsResult, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    resembles: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
