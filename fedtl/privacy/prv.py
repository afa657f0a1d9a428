"""
A second library's word on what a ledger's events come to: the PRV accountant of Opacus (Gopi, Lee and Wutschitz, 2021).

Another algorithm by other people than the one that charged, for the same mechanisms: Gaussian noise on Poisson samples.
"""

import warnings
from collections.abc import Iterable
from functools import lru_cache

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.per_sample.opacus import opacus_for

ERROR = 0.02  # its epsilon is an upper end, and so far above the truth at most
LEAST = 1e-9  # a delta below which its sums are rounding
MOST = 30.0  # a mean loss beyond which it needs minutes, and nothing is left to promise


def prv(events: Iterable[SpendEvent], delta: float) -> float | None:
    """Epsilon of all events together; None where it has no answer: no events, hardly any noise, too small a delta."""
    merged = accounting.merged(events)
    asked = merged and delta >= LEAST and accounting.mean_loss(merged) <= MOST
    return _composed(merged, delta) if asked else None


def understated(epsilon: float, theirs: float | None) -> bool:
    """Whether an epsilon is smaller than this library's by more than its error. One that is larger promises no more."""
    return theirs is not None and epsilon < theirs - ERROR


@lru_cache(64)
def _composed(events: tuple[SpendEvent, ...], delta: float) -> float | None:
    with opacus_for("the audit of a private run"):
        from opacus.accountants import PRVAccountant  # type: ignore[import-untyped]

    accountant = PRVAccountant()
    accountant.history = [(its.noise_multiplier, its.sample_rate, its.steps) for its in events]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(accountant.get_epsilon(delta))
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return None
