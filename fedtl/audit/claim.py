"""
What a silo claims about its privacy, and what follows from the claim alone.

A number that follows from the claim is not a measurement, so it is computed and reported apart from what was measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.tradeoff import TradeOff, gdp_mu, trade_off
from fedtl.report.audit_result import ClaimResult


@dataclass(frozen=True)
class Claim:
    """
    ``epsilon`` and ``delta`` for ``adjacency`` of one ``unit``, of which the silo has ``units``; ``clip`` is the clipping
    norm, and ``statistics_noise`` and ``metric_noise`` are the noise multipliers of released statistics and metrics
    (None: none are released).
    """

    unit: str
    adjacency: str
    units: int
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps_a_round: int
    rounds: int
    epsilon: float
    delta: float
    statistics_noise: float | None
    metric_noise: float | None = None


def read_claim(values: Mapping[str, Any]) -> Claim:
    """Read a claim from ``privacy.silos.<name>`` of result.json, or from the terms of a privacy guarantee."""
    return Claim(**{name: values[name] for name in Claim.__dataclass_fields__ if name in values})


@dataclass(frozen=True)
class ClaimedPlan:
    """
    A claim with the trade-off curve of the whole plan, and the ``mu`` of its Gaussian differential privacy (see
    ``tradeoff.gdp_mu``; None: not finite).
    """

    claim: Claim
    curve: TradeOff
    mu: float | None

    @property
    def result(self) -> ClaimResult:
        """The claim as audit.json holds it."""
        claim = self.claim
        return ClaimResult(
            unit=claim.unit,
            adjacency=claim.adjacency,
            units=claim.units,
            noise_multiplier=claim.noise_multiplier,
            sample_rate=claim.sample_rate,
            rounds=claim.rounds,
            steps=claim.rounds * claim.steps_a_round,
            epsilon=claim.epsilon,
            delta=claim.delta,
            mu=self.mu,
            tpr_at_fpr_1_percent=self.curve.found(0.01),
            tpr_at_fpr_01_percent=self.curve.found(0.001),
        )


def claimed_plan(claim: Claim, guarantee: PrivacyGuarantee) -> ClaimedPlan:
    """``guarantee``: the plan of which the claimed run is a part."""
    events = guarantee.schedule()
    mu = gdp_mu(events, guarantee.delta)
    return ClaimedPlan(claim, trade_off(events), mu if math.isfinite(mu) else None)
