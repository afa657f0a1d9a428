"""
Recomputes epsilon with the PRV accountant of Opacus (Gopi, Lee and Wutschitz, 2021) as a cross-check.

A different algorithm and implementation from the one that charged, for the same mechanism: Gaussian noise on a Poisson sample.
"""

import warnings
from collections.abc import Iterable
from functools import lru_cache

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.per_sample.opacus import opacus_for

EPSILON_ERROR = 0.02  # the error bound: the PRV epsilon is at most this much above the true one
MIN_DELTA = 1e-9  # for a smaller value, the PRV accountant's sums are rounding errors
MAX_MEAN_LOSS = 30.0  # for a larger value it takes minutes, and no useful guarantee is left


def prv_epsilon(events: Iterable[SpendEvent], delta: float) -> float | None:
    """Return the epsilon of all events together; None if it cannot be computed: no events, too little noise or delta."""
    schedule = accounting.merge_events(events)
    computable = schedule and delta >= MIN_DELTA and accounting.mean_loss(schedule) <= MAX_MEAN_LOSS
    return _composed(schedule, delta) if computable else None


def understated(epsilon: float, prv: float | None) -> bool:
    """Whether an epsilon is below the PRV accountant's by more than its error. An epsilon above it claims less privacy."""
    return prv is not None and epsilon < prv - EPSILON_ERROR


@lru_cache(64)
def _composed(events: tuple[SpendEvent, ...], delta: float) -> float | None:
    with opacus_for("the audit of a private run"):
        from opacus.accountants import PRVAccountant  # type: ignore[import-untyped]

    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sample_rate, event.steps) for event in events]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(accountant.get_epsilon(delta))
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return None
