"""
The trade-off curve of a schedule of noisy releases: how well any attacker can guess whether one record was included.

f(a) is the smallest false negative rate of any test with false positive rate a (Dong, Roth and Su, 2022). It follows from
the schedule's privacy loss distribution by f(a) = sup over epsilon >= 0 of max(0, 1 - delta(epsilon) - e^epsilon a,
e^-epsilon (1 - delta(epsilon) - a)) (their proposition 2.12). The supremum is taken over a grid of epsilons, and delta is
rounded up, so the curve lies at or below the true one: a test that refutes it also refutes the schedule.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import Floats, epsilon, gaussian_mu, merge_events, smallest_deltas

CURVE_POINTS = 2000  # epsilons of a curve
MIN_DELTA = 1e-10  # the curve ends at the epsilon of this delta
DELTA_SLACK = 1e-12  # added to every delta, for rounding in the library's sums


@dataclass(frozen=True)
class TradeOff:
    """The guarantee (epsilon, delta) holds for each pair of ``epsilons``, ascending from 0, and ``deltas``."""

    epsilons: Floats
    deltas: Floats

    def max_tpr(self, fpr: float) -> float:
        """Return the largest true positive rate of any test with this false positive rate: 1 - f(fpr)."""
        factor = np.exp(self.epsilons)
        bounds = np.minimum(fpr * factor + self.deltas, 1 - (1 - self.deltas - fpr) / factor)
        return float(min(1.0, bounds.min()))

    def min_fpr(self, tpr: float) -> float:
        """Return the smallest false positive rate of any test with this true positive rate: the inverse of ``max_tpr``."""
        factor = np.exp(self.epsilons)
        bounds = np.maximum((tpr - self.deltas) / factor, 1 - self.deltas - factor * (1 - tpr))
        return float(max(0.0, bounds.max()))


def trade_off(events: Iterable[SpendEvent]) -> TradeOff:
    """Return the curve of all events together, for zero-out adjacency. Raises ConfigError as ``accounting.epsilon`` does."""
    return _curve(merge_events(events))


@lru_cache(64)
def _curve(events: tuple[SpendEvent, ...]) -> TradeOff:
    end = epsilon(events, MIN_DELTA)
    if not math.isfinite(end):
        end = 100.0
    epsilons = np.linspace(0, end, CURVE_POINTS)
    return TradeOff(epsilons, np.minimum(1.0, smallest_deltas(events, epsilons) + DELTA_SLACK))


def gdp_mu(events: Iterable[SpendEvent], delta: float) -> float:
    """
    Return the smallest mu for which mu-GDP has at least the schedule's delta at every epsilon from 0 to the schedule's own
    epsilon at ``delta``. The schedule's trade-off curve is then at most ``delta`` below that of mu-GDP. For full-batch
    Gaussian steps it is sqrt(steps) / noise multiplier; a subsampled schedule is not exactly Gaussian.
    """
    schedule = merge_events(events)
    end = epsilon(schedule, delta)
    if not math.isfinite(end):
        return math.inf
    curve = trade_off(schedule)
    at_zero = float(2 * ndtri((1 + curve.deltas[0]) / 2))
    points = [
        (float(at), float(here))
        for at, here in zip(curve.epsilons[1:], curve.deltas[1:], strict=True)
        if at < end and here < 1
    ]
    spread = points[:: max(1, len(points) // 100)]
    return max([at_zero, *(gaussian_mu(at, here) for at, here in [*spread, (end, delta)] if at > 0)])
