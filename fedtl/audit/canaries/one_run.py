"""
Lower bounds on epsilon from canaries of one training run, each of which was in it or not by a fair coin.

Knows scores and coins, nothing of models. A bound that lies below the claim proves nothing, which is why each comes with
its power: the true epsilon from which on such an audit would have contradicted the claim.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import binom, norm

from fedtl.privacy.accounting import gaussian_mu

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
# Shares of the canaries that are guessed, fixed before anybody looks; each is a look, and looks are divided out.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
MOST = 50.0  # an epsilon beyond it is told as this one: there is nothing left to promise
LEAST = 1e-30  # a significance at which nothing is refuted any more
SURE = 0.95  # the chance at which an audit is said to see something


@dataclass(frozen=True)
class Look:
    """``guesses`` of ``canaries`` were guessed, highest scores in and lowest out, and ``correct`` of them rightly."""

    canaries: int
    guesses: int
    correct: int


FalseAlarms = Callable[[float], float]  # the fewest false alarms at which a test finds this share of members


def looks(scores: Floats, member: Coins, ties: np.random.Generator) -> list[Look]:
    """
    One look a share. Equal scores come in random order: without noise all absent canaries have the same one, and an
    order by position would decide for them.
    """
    count = len(scores)
    order = np.lexsort((ties.random(count), scores))
    found = []
    for share in SHARES:
        half = max(1, int(count * share / 2))
        right = int(member[order[-half:]].sum() + (~member[order[:half]]).sum())
        found.append(Look(count, 2 * half, right))
    return found


def steinke_p(look: Look, epsilon: float, delta: float) -> float:
    """
    The chance of so many right guesses, or more, under (epsilon, delta) (Steinke, Nasr and Jagielski, 2023, theorem
    5.2): beta + 2 m delta max_i (P[B >= v - i] - beta) / i, B binomial with e^epsilon / (1 + e^epsilon).
    """
    rate = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(look.correct - 1, look.guesses, rate))
    steps = np.arange(1, look.correct + 1)
    gains = (binom.sf(look.correct - 1 - steps, look.guesses, rate) - beta) / steps
    return min(1.0, beta + 2 * look.canaries * delta * float(gains.max(initial=0.0)))


def steinke(look: Look, delta: float, significance: float) -> float:
    """The largest epsilon that the guesses refute, 0 for none."""
    return _largest(lambda epsilon: steinke_p(look, epsilon, delta) <= significance)


def of_gaussian(mu: float) -> FalseAlarms:
    """The trade-off curve of mu-GDP."""
    return lambda found: float(ndtr(ndtri(found) - mu))


def fdp_refutes(look: Look, curve: FalseAlarms, significance: float) -> bool:
    """
    Whether the guesses refute a trade-off curve, which must be symmetric (Mahloujifar, Melis and Chaudhuri, 2024, their
    algorithm for r and h).
    """
    right = significance * look.correct / look.canaries
    wrong = significance * (look.guesses - look.correct) / look.canaries
    for left in range(look.correct - 1, -1, -1):
        blown = max(wrong, curve(min(right, 1.0)))
        if blown == wrong:
            break
        right = min(1.0, right + left / (look.guesses - left) * (blown - wrong))
        wrong = blown
    return right + wrong > look.guesses / look.canaries


def fdp_p(look: Look, curve: FalseAlarms) -> float:
    """The smallest significance, from above, at which the guesses refute a trade-off curve."""
    low, high = math.log(LEAST), 0.0
    if not fdp_refutes(look, curve, 1.0):
        return 1.0
    while high - low > 0.05:
        middle = (low + high) / 2
        low, high = (low, middle) if fdp_refutes(look, curve, math.exp(middle)) else (middle, high)
    return math.exp(high)


def fdp(look: Look, delta: float, significance: float) -> float:
    """
    The epsilon at ``delta`` of the largest Gaussian trade-off that the guesses refute, 0 for none. It bounds mu of mu-GDP;
    a claim is refuted by its own curve alone (``fdp_p``).
    """
    return _largest(
        lambda epsilon: (
            epsilon > 0 and fdp_refutes(look, of_gaussian(gaussian_mu(epsilon, delta)), significance)
        ),
        1e-3,
    )


def gaussian(scores: Floats, member: Coins, delta: float, significance: float) -> float:
    """
    A confidence bound for scores that are two normal distributions of one variance (after Andrew et al., 2023):
    mu - z sqrt(1/n_in + 1/n_out + mu^2 / 2m). Parametric: it holds as far as scores are normal, so it informs only.
    """
    inside, outside = scores[member], scores[~member]
    if min(len(inside), len(outside)) < 2:
        return 0.0
    count = len(scores)
    squares = ((inside - inside.mean()) ** 2).sum() + ((outside - outside.mean()) ** 2).sum()
    spread = math.sqrt(squares / (count - 2))
    gap = float(inside.mean() - outside.mean())
    if spread <= 1e-12 * max(1.0, abs(gap)):
        return MOST if gap > 0 else 0.0
    mu = gap / spread
    error = math.sqrt(1 / len(inside) + 1 / len(outside) + mu**2 / (2 * count))
    return gaussian_epsilon(mu - norm.ppf(1 - significance) * error, delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of mu-GDP at ``delta``, at most MOST: undoes ``accounting.gaussian_mu``."""

    def excess(epsilon: float) -> float:
        below = math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2))
        return float(ndtr(-epsilon / mu + mu / 2) - below - delta)

    if mu <= 1e-9 or excess(0.0) <= 0:
        return 0.0
    return MOST if excess(MOST) >= 0 else float(brentq(excess, 0.0, MOST, xtol=1e-9))


@dataclass(frozen=True)
class Bounds:
    """Each a lower bound on epsilon that holds with 1 - significance; ``gaussian`` on an assumption."""

    steinke: float
    fdp: float
    gaussian: float


def bounds(
    scores: Floats, member: Coins, delta: float, significance: float, ties: np.random.Generator
) -> Bounds:
    """The best of all looks, each at its share of ``significance``."""
    seen = looks(scores, member, ties)
    each = significance / len(seen)
    return Bounds(
        max(steinke(look, delta, each) for look in seen),
        max(fdp(look, delta, each) for look in seen),
        gaussian(scores, member, delta, significance),
    )


def power(
    count: int, claimed: float, delta: float, curve: FalseAlarms, significance: float
) -> dict[str, float | None]:
    """
    By bound, the smallest true epsilon of a Gaussian mechanism with which ``count`` canaries would contradict the claim,
    ``claimed`` at ``delta`` for one bound and ``curve`` for the other, with a chance of SURE. None: no mechanism, however
    bad, would be caught by this bound.
    """
    each = significance / len(SHARES)
    tests: dict[str, Callable[[Look], bool]] = {
        "steinke": lambda look: steinke_p(look, claimed, delta) <= each,
        "fdp": lambda look: fdp_refutes(look, curve, each),
    }
    found: dict[str, float | None] = {}
    for name, refutes in tests.items():

        def seen(mu: float, refutes: Callable[[Look], bool] = refutes) -> bool:
            return any(refutes(look) for look in _likely(count, mu))

        low, high = 0.0, 40.0
        if not seen(high):
            found[name] = None
            continue
        while high - low > 0.01:
            middle = (low + high) / 2
            low, high = (low, middle) if seen(middle) else (middle, high)
        found[name] = gaussian_epsilon(high, delta)
    return found


def _likely(count: int, mu: float) -> Sequence[Look]:
    """What the looks at a mu-GDP mechanism come to, or better, with a chance of SURE."""
    found = []
    for share in SHARES:
        half = max(1, int(count * share / 2))

        def above(t: float, half: int = half) -> float:
            return float(norm.sf(t - mu) + norm.sf(t)) / 2 - half / count

        t = brentq(above, -10.0, mu + 10.0)
        rate = float(norm.sf(t - mu) / (norm.sf(t - mu) + norm.sf(t)))
        found.append(Look(count, 2 * half, int(binom.ppf(1 - SURE, 2 * half, rate))))
    return found


def _largest(refuted: Callable[[float], bool], least: float = 0.0) -> float:
    """The supremum of what is refuted, up to MOST: whoever refutes an epsilon refutes every smaller one."""
    if not refuted(least):
        return 0.0
    if refuted(MOST):
        return MOST
    low, high = least, MOST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
