"""
What a site makes of the privacy that a plan asks for: its own numbers, and the plan's where it has none or asks for
stricter. An approval names the plan by its hash, so what comes from the plan is fixed with it. Must not know any row.
"""

from collections.abc import Mapping
from typing import Any

from fedtl.deployment.site.settings import BudgetSettings
from fedtl.errors import Denied
from fedtl.experiment.config.schema import Experiment, PrivacySettings
from fedtl.federation.policy import Code

# Of a promise, in the words of ``planning.terms``.
NUMBERS = ("epsilon", "delta", "clip", "sample_rate", "steps_a_round", "rounds")


def settings(
    asked: PrivacySettings | None, own: BudgetSettings | None, figures: frozenset[str]
) -> PrivacySettings | None:
    """
    What the site trains under; None: openly, as neither side asks for privacy. ``figures``: the metrics that its policy
    lets out; of those that are asked for, the others are neither measured nor charged. Raises Denied.
    """
    if own is None and asked is not None:
        raise Denied(
            Code.PLAN,
            f"the plan is private (epsilon {asked.epsilon:g}), and silo.toml allows for none; write into it the most that "
            "its rows may spend, such as: [policy.privacy] epsilon = 3.0, lifetime_epsilon = 10.0, clip = 1.0",
        )
    if own is None:
        return None
    plan = asked or PrivacySettings(epsilon=own.epsilon)
    if plan.epsilon > own.epsilon:
        raise Denied(
            Code.PLAN,
            f"the plan asks for epsilon {plan.epsilon:g}; policy.privacy.epsilon is {own.epsilon:g}",
        )
    unit = plan.unit if own.unit == "record" else own.unit  # a column protects more than a record
    if plan.unit not in ("record", unit):
        raise Denied(Code.PLAN, f"the plan protects each {plan.unit!r}; policy.privacy.unit is {own.unit!r}")
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
    left = [name for name in plan.metrics if name in figures]
    return plan.model_copy(update={**fixed, "unit": unit, "metrics": left})


def rounds(planned: int, own: BudgetSettings) -> int:
    """The most that the site takes part in, whichever they are."""
    return planned if own.rounds is None else min(planned, own.rounds)


def taken(plan: Experiment, own: BudgetSettings) -> list[str]:
    """Those of ``NUMBERS`` that the plan gives, as the site has none or a laxer one."""
    given = {
        "epsilon": plan.privacy is not None and plan.privacy.epsilon < own.epsilon,
        "sample_rate": own.sample_rate is None,
        "steps_a_round": own.steps is None,
        "rounds": own.rounds is None or plan.rounds < own.rounds,
    }
    return [name for name in NUMBERS if given.get(name)]


def told(privacy: Mapping[str, Any]) -> dict[str, str]:
    """Each of a promise's numbers, and whose it is; ``privacy``: as a rehearsal gives it, {} for no promise."""
    whose = dict.fromkeys(privacy.get("from_plan", ()), "the plan's, as approved")
    return {
        name.replace("_", " "): f"{privacy[name]:.4g} ({whose.get(name, 'silo.toml')})"
        for name in NUMBERS
        if name in privacy
    }
