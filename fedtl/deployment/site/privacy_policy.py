"""
The privacy settings that a plan runs under at a site: the site's own values, and the plan's where the site sets none or
the plan is stricter. The signed approval names the plan by its hash, so the plan's values cannot change later.
"""

from collections.abc import Mapping
from typing import Any

from fedtl.deployment.site.settings import BudgetSettings
from fedtl.errors import Denied
from fedtl.experiment.config.schema import Experiment, PrivacySettings
from fedtl.federation.policy import Code

# The values of a privacy guarantee that are shown with their source, as ``privacy_plan.terms`` names them.
SHOWN_VALUES = ("epsilon", "delta", "clip", "sample_rate", "steps_a_round", "rounds")


def effective_privacy(
    planned: PrivacySettings | None, own: BudgetSettings | None, metrics: frozenset[str]
) -> PrivacySettings | None:
    """
    Return the settings that the site trains under; None where neither the site nor the plan asks for privacy. ``metrics``:
    those that the site's policy allows; others that the plan lists are neither measured nor charged. Raises Denied.
    """
    if own is None and planned is not None:
        raise Denied(
            Code.PLAN,
            f"the plan is private (epsilon {planned.epsilon:g}), and silo.toml has no privacy budget; add, for example: "
            "[policy.privacy] epsilon = 3.0, lifetime_epsilon = 10.0, clip = 1.0",
        )
    if own is None:
        return None
    plan = planned or PrivacySettings(epsilon=own.epsilon)
    if plan.epsilon > own.epsilon:
        raise Denied(
            Code.PLAN,
            f"the plan needs epsilon {plan.epsilon:g}; policy.privacy.epsilon is {own.epsilon:g}",
        )
    unit = (
        plan.unit if own.unit == "record" else own.unit
    )  # protecting a column's groups is stricter than records
    if plan.unit not in ("record", unit):
        raise Denied(
            Code.PLAN,
            f"the plan protects each {plan.unit!r}; policy.privacy.unit is {own.unit!r}, and the two must be the same",
        )
    fixed: dict[str, Any] = {
        "delta": own.delta,
        "clip": own.clip,
        "statistics": own.statistics,
        "noise": "os",
    }
    if own.sample_rate is not None:
        fixed["sample_rate"] = own.sample_rate
    if own.steps is not None:
        fixed["steps"] = own.steps
    released = [name for name in plan.metrics if name in metrics]
    return plan.model_copy(update={**fixed, "unit": unit, "metrics": released})


def maximum_rounds(planned: int, own: BudgetSettings) -> int:
    """Return the number of rounds that the site takes part in at most."""
    return planned if own.rounds is None else min(planned, own.rounds)


def values_from_plan(plan: Experiment, own: BudgetSettings) -> list[str]:
    """Return those of ``SHOWN_VALUES`` that come from the plan, because the site sets none or a weaker one."""
    from_plan = {
        "epsilon": plan.privacy is not None and plan.privacy.epsilon < own.epsilon,
        "sample_rate": own.sample_rate is None,
        "steps_a_round": own.steps is None,
        "rounds": own.rounds is None or plan.rounds < own.rounds,
    }
    return [name for name in SHOWN_VALUES if from_plan.get(name)]


def describe_values(privacy: Mapping[str, Any]) -> dict[str, str]:
    """Return each shown value with its source. ``privacy``: a guarantee as a rehearsal writes it; {} where there is none."""
    sources = dict.fromkeys(privacy.get("from_plan", ()), "from the approved plan")
    return {
        name.replace("_", " "): f"{privacy[name]:.4g} ({sources.get(name, 'from silo.toml')})"
        for name in SHOWN_VALUES
        if name in privacy
    }
