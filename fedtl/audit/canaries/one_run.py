"""
Lower bounds on epsilon from the canaries of one training run, each included in the run or not by a fair coin.

Needs only scores and coin flips, and no model. A bound below the claim neither confirms nor refutes it; see
``audit.power`` for the true epsilon that such an audit would have detected.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import binom, t

from fedtl.privacy.accounting import gaussian_mu
from fedtl.results.audit import BoundsResult

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
# Shares of the canaries that are guessed. They are fixed before scores are seen, and the significance is divided by
# their number (Bonferroni).
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
MAX_EPSILON = 50.0  # a larger epsilon is reported as this one: it gives no protection
MIN_SIGNIFICANCE = 1e-30  # the smallest p-value that ``fdp_p`` computes


@dataclass(frozen=True)
class Guesses:
    """
    The outcome of guessing: of ``canaries``, ``guesses`` were guessed (highest scores in, lowest out), and ``correct`` of
    these were right.
    """

    canaries: int
    guesses: int
    correct: int


FalseAlarms = Callable[
    [float], float
]  # the smallest false positive rate of any test with this true positive rate


def guess(scores: Floats, member: Coins, ties: np.random.Generator) -> list[Guesses]:
    """
    Guess each share of SHARES. ``ties`` orders equal scores at random: without noise all excluded canaries have the same
    score, and their position would decide otherwise.
    """
    count = len(scores)
    order = np.lexsort((ties.random(count), scores))
    results = []
    for share in SHARES:
        half = max(1, int(count * share / 2))
        correct = int(member[order[-half:]].sum() + (~member[order[:half]]).sum())
        results.append(Guesses(count, 2 * half, correct))
    return results


def steinke_p(guesses: Guesses, epsilon: float, delta: float) -> float:
    """
    The probability of this many correct guesses, or more, under (epsilon, delta) (Steinke, Nasr and Jagielski, 2023,
    theorem 5.2): beta + 2 m delta max_i (P[B >= v - i] - beta) / i, B binomial with e^epsilon / (1 + e^epsilon).
    """
    rate = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(guesses.correct - 1, guesses.guesses, rate))
    steps = np.arange(1, guesses.correct + 1)
    gains = (binom.sf(guesses.correct - 1 - steps, guesses.guesses, rate) - beta) / steps
    return min(1.0, beta + 2 * guesses.canaries * delta * float(gains.max(initial=0.0)))


def steinke(guesses: Guesses, delta: float, significance: float) -> float:
    """The largest epsilon that the guesses refute; 0 if they refute none."""
    return _largest(lambda epsilon: steinke_p(guesses, epsilon, delta) <= significance)


def gaussian_curve(mu: float) -> FalseAlarms:
    """The trade-off curve of mu-GDP."""
    return lambda true_positives: float(ndtr(ndtri(true_positives) - mu))


def fdp_refutes(guesses: Guesses, curve: FalseAlarms, significance: float) -> bool:
    """
    Whether the guesses refute a symmetric trade-off curve (Mahloujifar, Melis and Chaudhuri, 2024, the algorithm for r
    and h).
    """
    right = significance * guesses.correct / guesses.canaries
    wrong = significance * (guesses.guesses - guesses.correct) / guesses.canaries
    for left in range(guesses.correct - 1, -1, -1):
        blown = max(wrong, curve(min(right, 1.0)))
        if blown == wrong:
            break
        right = min(1.0, right + left / (guesses.guesses - left) * (blown - wrong))
        wrong = blown
    return right + wrong > guesses.guesses / guesses.canaries


def fdp_p(guesses: Guesses, curve: FalseAlarms) -> float:
    """An upper bound on the smallest significance at which the guesses refute a trade-off curve."""
    low, high = math.log(MIN_SIGNIFICANCE), 0.0
    if not fdp_refutes(guesses, curve, 1.0):
        return 1.0
    while high - low > 0.05:
        middle = (low + high) / 2
        low, high = (low, middle) if fdp_refutes(guesses, curve, math.exp(middle)) else (middle, high)
    return math.exp(high)


def fdp(guesses: Guesses, delta: float, significance: float) -> float:
    """
    The epsilon at ``delta`` of the largest Gaussian trade-off curve that the guesses refute; 0 if they refute none. It
    bounds a Gaussian mechanism only; a claim is refuted by the curve of its own plan (``fdp_p``).
    """
    return _largest(
        lambda epsilon: (
            epsilon > 0 and fdp_refutes(guesses, gaussian_curve(gaussian_mu(epsilon, delta)), significance)
        ),
        1e-3,
    )


def gaussian(scores: Floats, member: Coins, delta: float, significance: float) -> float:
    """
    A confidence bound for scores of two normal distributions with one variance (after Andrew et al., 2023):
    mu - q sqrt(1/n_in + 1/n_out + mu^2 / 2m), with the quantile q of Student's t, because few scores estimate the variance. It holds only if scores are normal, so it never refutes a claim.
    """
    inside, outside = scores[member], scores[~member]
    if min(len(inside), len(outside)) < 2:
        return 0.0
    count = len(scores)
    squares = ((inside - inside.mean()) ** 2).sum() + ((outside - outside.mean()) ** 2).sum()
    spread = math.sqrt(squares / (count - 2))
    gap = float(inside.mean() - outside.mean())
    if spread <= 1e-12 * max(1.0, abs(gap)):
        return MAX_EPSILON if gap > 0 else 0.0
    mu = gap / spread
    error = math.sqrt(1 / len(inside) + 1 / len(outside) + mu**2 / (2 * count))
    return gaussian_epsilon(mu - t.ppf(1 - significance, count - 2) * error, delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of mu-GDP at ``delta``, at most MAX_EPSILON; the inverse of ``accounting.gaussian_mu``."""

    def excess(epsilon: float) -> float:
        below = math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2))
        return float(ndtr(-epsilon / mu + mu / 2) - below - delta)

    if mu <= 1e-9 or excess(0.0) <= 0:
        return 0.0
    return MAX_EPSILON if excess(MAX_EPSILON) >= 0 else float(brentq(excess, 0.0, MAX_EPSILON, xtol=1e-9))


def bounds(
    scores: Floats, member: Coins, delta: float, significance: float, ties: np.random.Generator
) -> BoundsResult:
    """
    Lower bounds on epsilon with confidence 1 - ``significance``: the best over all shares of guesses, each at an equal
    part of ``significance``.
    """
    results = guess(scores, member, ties)
    each = significance / len(results)
    return BoundsResult(
        steinke=max(steinke(guesses, delta, each) for guesses in results),
        fdp=max(fdp(guesses, delta, each) for guesses in results),
        gaussian=gaussian(scores, member, delta, significance),
        canaries=len(member),
    )


def _largest(refuted: Callable[[float], bool], least: float = 0.0) -> float:
    """The largest refuted epsilon, at most MAX_EPSILON; assumes that every smaller epsilon is refuted, too."""
    if not refuted(least):
        return 0.0
    if refuted(MAX_EPSILON):
        return MAX_EPSILON
    low, high = least, MAX_EPSILON
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
