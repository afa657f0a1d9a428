"""
What a silo claims about its privacy, and what follows from the claim alone.

A number that follows from the claim is not a measurement, so it is computed and reported apart from what was measured.
"""

import math
from dataclasses import dataclass

from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.tradeoff import TradeOff, gdp_mu, trade_off
from fedtl.results.audit import ClaimResult
from fedtl.results.privacy import SiloPrivacy


@dataclass(frozen=True)
class ClaimedPlan:
    """
    A claim with the trade-off curve of the whole plan, and the ``mu`` of its Gaussian differential privacy (see
    ``tradeoff.gdp_mu``; None: not finite).
    """

    claim: SiloPrivacy
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
            tpr_at_fpr_1_percent=self.curve.max_tpr(0.01),
            tpr_at_fpr_01_percent=self.curve.max_tpr(0.001),
        )


def claimed_plan(claim: SiloPrivacy, guarantee: PrivacyGuarantee) -> ClaimedPlan:
    """The claim with the trade-off curve of ``guarantee``, the plan of which the claimed run is a part."""
    events = guarantee.schedule()
    mu = gdp_mu(events, guarantee.delta)
    return ClaimedPlan(claim, trade_off(events), mu if math.isfinite(mu) else None)
