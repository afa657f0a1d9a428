"""How small a fault an audit would still have detected with 95 % probability: what a passed check is worth."""

import math
from collections.abc import Callable, Sequence

from scipy.optimize import brentq
from scipy.stats import binom, chi2, norm

from fedtl.audit.canaries.log import CanaryPhase, sampled, steps
from fedtl.audit.canaries.one_run import (
    SHARES,
    FalseAlarms,
    Guesses,
    fdp_refutes,
    gaussian_epsilon,
    steinke_p,
)
from fedtl.results.audit import DetectableEpsilon, PowerResult

POWER = 0.95  # the probability with which a detectable fault is detected
MAX_MU = 40.0  # the largest mu of the Gaussian mechanisms that are tried


def power(
    run: Sequence[CanaryPhase], noise_multiplier: float, epsilon: DetectableEpsilon, level: float
) -> PowerResult:
    """
    The faults that the checks of one silo's canaries refute at ``level``. Normal approximations: the relative standard
    error is 1 / sqrt(2 n) for a standard deviation of n values, and sigma / sqrt(n) for a mean.
    """
    quantiles = float(norm.isf(level / 2) + norm.ppf(POWER))
    values = steps(run)[:, ~run[0].member].size
    count = int(sampled(run).sum())
    return PowerResult(
        epsilon=epsilon,
        noise=quantiles / math.sqrt(2 * max(values, 1)),
        sensitivity=quantiles * noise_multiplier / math.sqrt(count) if count else None,
    )


def detectable_noise_ratio(values: int, level: float) -> float:
    """The ratio of true to claimed noise below which the chi-square check of this many values fails with probability POWER."""
    return float((chi2.ppf(level / 2, values) / chi2.ppf(POWER, values)) ** 0.5)


def detectable_epsilon(
    canaries: int, claimed: float, delta: float, curve: FalseAlarms, level: float
) -> DetectableEpsilon:
    """
    For each bound, the smallest true epsilon of a Gaussian mechanism with which ``canaries`` would refute the claim with
    probability POWER: ``claimed`` at ``delta`` for the bound of Steinke et al., and ``curve`` for the f-DP bound.
    """
    share = level / len(SHARES)
    return DetectableEpsilon(
        steinke=_smallest_epsilon(
            canaries, delta, lambda guesses: steinke_p(guesses, claimed, delta) <= share
        ),
        fdp=_smallest_epsilon(canaries, delta, lambda guesses: fdp_refutes(guesses, curve, share)),
    )


def _smallest_epsilon(canaries: int, delta: float, refutes: Callable[[Guesses], bool]) -> float | None:
    def detected(mu: float) -> bool:
        return any(refutes(guesses) for guesses in _likely_guesses(canaries, mu))

    low, high = 0.0, MAX_MU
    if not detected(high):
        return None
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if detected(middle) else (middle, high)
    return gaussian_epsilon(high, delta)


def _likely_guesses(canaries: int, mu: float) -> list[Guesses]:
    """For each share, the number of correct guesses that a mu-GDP mechanism reaches with probability POWER."""
    results = []
    for share in SHARES:
        half = max(1, int(canaries * share / 2))

        def excess(threshold: float, half: int = half) -> float:
            return float(norm.sf(threshold - mu) + norm.sf(threshold)) / 2 - half / canaries

        threshold = brentq(excess, -10.0, mu + 10.0)
        rate = float(norm.sf(threshold - mu) / (norm.sf(threshold - mu) + norm.sf(threshold)))
        results.append(Guesses(canaries, 2 * half, int(binom.ppf(1 - POWER, 2 * half, rate))))
    return results
