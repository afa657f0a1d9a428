"""
How much of a dataset's privacy budget is left, and does a study's plan fit into it?

A study takes its plan's whole epsilon and delta from the budget before its first round, and returns nothing when it ends
early: whether a study continues may depend on the results of its rounds, so what was charged until then is not a bound on what
was learned. The plans of several studies are added. Basic composition is a valid privacy filter also for plans that are
chosen adaptively (Rogers, Roth, Ullman and Vadhan, 2016: Privacy Odometers and Filters) and for studies that run
concurrently (Haney et al., 2023: Concurrent Composition with Adaptive Privacy-Loss Parameters).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedtl.errors import BudgetExhausted, ConfigError
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting

SLACK = 1 + 1e-9  # relative, for rounding: three times a third may be slightly more than one


@dataclass(frozen=True)
class Budget:
    """The most epsilon and delta that may ever be spent on a dataset, by all studies together."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise ConfigError(f"{self} is not a valid budget: set epsilon above 0 and delta between 0 and 1")


@dataclass(frozen=True)
class Plan:
    """All releases that a study may make, fixed before its first round: ``events`` of all rounds, at most ``epsilon``."""

    epsilon: float
    delta: float
    events: tuple[SpendEvent, ...]


def check_affordable(
    dataset: str, study: str | None, plan: Plan, budget: Budget, others: Sequence[tuple[float, float]] = ()
) -> None:
    """
    Raise BudgetExhausted if the whole plan does not fit into the budget. ``study`` None: a new study. ``others``: the
    (epsilon, delta) that each other study has taken.
    """
    taken, total = accounting.add_costs(others), accounting.add_costs([*others, (plan.epsilon, plan.delta)])
    if total[0] > budget.epsilon * SLACK or total[1] > budget.delta * SLACK:
        left = max(0.0, budget.epsilon - taken[0]), max(0.0, budget.delta - taken[1])
        raise BudgetExhausted(
            f"{dataset}: {'a new study' if study is None else f'study {study!r}'} needs epsilon {plan.epsilon:.4g} and delta "
            f"{plan.delta:.3g} for its whole plan; other studies have taken {taken[0]:.4g} of {budget.epsilon:.4g} and "
            f"{taken[1]:.3g} of {budget.delta:.3g}, so epsilon {left[0]:.4g} and delta {left[1]:.3g} are left; ask for a smaller "
            "epsilon, or raise the lifetime budget of the dataset"
        )
