"""
What a plan of noisy releases allows an attacker who guesses whether one record was in: its trade-off curve.

f(a) is the smallest rate of missed members of any test with a rate a of false alarms (Dong, Roth and Su, 2022). It follows
from the plan's privacy loss distribution by f(a) = sup over epsilon >= 0 of max(0, 1 - delta(epsilon) - e^epsilon a,
e^-epsilon (1 - delta(epsilon) - a)) (their proposition 2.12). The supremum is taken over some epsilons, and delta is rounded
up, so the curve lies at or below the plan's own: whatever refutes it refutes the plan.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import Floats, deltas, epsilon, gaussian_mu, merged

POINTS = 2000  # epsilons of a curve
LEAST = 1e-10  # a delta below which the curve is not followed
SLACK = 1e-12  # added to every delta, for rounding in the library's sums


@dataclass(frozen=True)
class TradeOff:
    """Each of ``epsilons``, which rise from 0, is kept with the ``deltas`` beside it."""

    epsilons: Floats
    deltas: Floats

    def found(self, false_alarms: float) -> float:
        """The largest share of members that any test finds at this rate of false alarms: TPR at FPR, 1 - f."""
        grown = np.exp(self.epsilons)
        one = false_alarms * grown + self.deltas
        other = 1 - (1 - self.deltas - false_alarms) / grown
        return float(min(1.0, np.minimum(one, other).min()))

    def false_alarms(self, found: float) -> float:
        """The smallest rate of false alarms of any test that finds this share of members: undoes ``found``."""
        grown = np.exp(self.epsilons)
        one = (found - self.deltas) / grown
        other = 1 - self.deltas - grown * (1 - found)
        return float(max(0.0, one.max(), other.max()))


def trade_off(events: Iterable[SpendEvent]) -> TradeOff:
    """The curve of all events together, for zero-out adjacency. Raises ConfigError as ``accounting.epsilon`` does."""
    return _curve(merged(events))


@lru_cache(64)
def _curve(events: tuple[SpendEvent, ...]) -> TradeOff:
    end = epsilon(events, LEAST)
    if not math.isfinite(end):
        end = 100.0
    epsilons = np.linspace(0, end, POINTS)
    return TradeOff(epsilons, np.minimum(1.0, deltas(events, epsilons) + SLACK))


def gdp_mu(events: Iterable[SpendEvent], delta: float) -> float:
    """
    The smallest mu with which mu-GDP keeps no smaller a delta than the plan at every epsilon from 0 to the plan's own
    epsilon at ``delta``. The plan's trade-off curve then lies nowhere more than ``delta`` below that of mu-GDP. Of one
    full-batch Gaussian release a step it is sqrt(steps) / noise multiplier; a subsampled plan is not exactly Gaussian.
    """
    its = merged(events)
    end = epsilon(its, delta)
    if not math.isfinite(end):
        return math.inf
    curve = trade_off(its)
    at_zero = float(2 * ndtri((1 + curve.deltas[0]) / 2))
    points = [
        (float(at), float(here))
        for at, here in zip(curve.epsilons[1:], curve.deltas[1:], strict=True)
        if at < end and here < 1
    ]
    spread = points[:: max(1, len(points) // 100)]
    return max([at_zero, *(gaussian_mu(at, here) for at, here in [*spread, (end, delta)] if at > 0)])
