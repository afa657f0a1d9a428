"""
What one silo of a run claims, and what follows from the claim alone.

A number that follows from the claim is no finding: it stands here, and not among what was measured.
"""

import math
from dataclasses import dataclass
from typing import Any

from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.tradeoff import TradeOff, gdp_mu, trade_off
from fedtl.results.privacy import SiloPrivacy

RATES = (0.01, 0.001)  # of false alarms


@dataclass(frozen=True)
class SiloClaim:
    """
    ``epsilon`` and ``delta`` are what the run says was spent, for ``adjacency`` of one ``unit``, of which the silo has
    ``units``; ``curve`` is the trade-off curve of the whole plan, and ``mu`` its Gaussian differential privacy (see
    ``tradeoff.gdp_mu``; None: there is no finite one).
    """

    unit: str
    adjacency: str
    units: int
    noise_multiplier: float
    sample_rate: float
    rounds: int
    steps: int
    epsilon: float
    delta: float
    mu: float | None
    curve: TradeOff

    @classmethod
    def of(cls, said: SiloPrivacy, guarantee: PrivacyGuarantee) -> "SiloClaim":
        """From result.json's ``privacy.silos.<name>``, and the plan of which that run is a part."""
        plan = guarantee.schedule()
        mu = gdp_mu(plan, guarantee.delta)
        return cls(
            unit=said.unit,
            adjacency=said.adjacency,
            units=said.units,
            noise_multiplier=said.noise_multiplier,
            sample_rate=said.sample_rate,
            rounds=said.rounds,
            steps=said.rounds * said.steps_a_round,
            epsilon=said.epsilon,
            delta=said.delta,
            mu=mu if math.isfinite(mu) else None,
            curve=trade_off(plan),
        )

    def shown(self) -> dict[str, Any]:
        """As audit.json holds it."""
        plain = {name: value for name, value in vars(self).items() if name != "curve"}
        return plain | {f"tpr_at_fpr_{rate:g}": self.curve.max_tpr(rate) for rate in RATES}
