"""The privacy guarantee of a run, a comparison or a plan, as it is published."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SiloPrivacy:
    """
    The guarantee of one silo. ``units``: how many records (or patients, ...) it covers. ``steps_a_round``: of all phases
    together. ``*_noise``: noise multipliers of the released metric, statistics and summaries, None where there are none, and
    ``*_expected_noise``: the standard deviation of the noise on one released value. In a result, ``epsilon`` is what the
    run took from the ledger. ``epsilon_charged`` is the epsilon of the rounds that were done. It is not a guarantee, because
    the round in which a run ends may depend on its results.
    """

    epsilon: float
    delta: float
    epsilon_replace_one: float
    unit: str
    adjacency: str
    units: int
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps_a_round: int
    rounds: int
    metric_noise: float | None
    metric_expected_noise: float | None
    statistics_noise: float | None
    statistics_expected_noise: float | None
    epsilon_charged: float | None = None
    summary_noise: float | None = None
    summary_expected_noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class SiteGuarantee(SiloPrivacy):
    """
    What an institution is asked to sign. ``lifetime_*``: the budget of its rows over all studies. ``from_plan``: which of its numbers the
    coordinator's plan sets.
    """

    lifetime_epsilon: float
    lifetime_delta: float
    from_plan: tuple[str, ...]


@dataclass(frozen=True)
class PrivacyReport:
    """
    What is guaranteed, and to whom. ``private`` is False where the noise can be drawn again. ``not_released``: keys of the
    file whose values the guarantee does not cover. ``epsilon``: of each run of a comparison. ``silos``: of a run or a plan.
    """

    private: bool
    unit: str
    adjacency: str
    statistics: str
    tuning: str
    metrics: tuple[str, ...]
    epsilon: float | None = None
    not_released: tuple[str, ...] = ()
    silos: Mapping[str, SiloPrivacy] | None = None
