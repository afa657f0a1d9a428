"""
What a schedule of noisy releases comes to, in epsilon and delta, and the noise that keeps it there.

By privacy loss distributions (Sommer et al., 2019) as dp-accounting composes them: from above, exact to the
discretisation, and valid because a study's schedule is fixed before its first round. Two records' neighbourhood is
zero-out: one record replaced by nothing, the number of records being public; replace-one is the stricter reading.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.errors import ConfigError
from fedtl.messages import SpendEvent

Floats = NDArray[np.float64]
MOST_NOISE, LEAST_NOISE = 1000.0, 0.01  # noise multipliers beyond which nothing is learnt, or hidden
CLOSE = 1e-3  # relative, how near calibration comes to the smallest noise that does
# Of the grid of privacy losses. A coarser one means a larger epsilon, never a smaller one.
WIDTH = 1e-3
STEPS = 1000  # its errors add up to steps * width^2: from so many on it is finer
LOSS = 50.0  # from here on it is coarser, for all of it must fit into memory


def default_delta(records: int) -> float:
    """min(1e-5, 1/(10 n))."""
    if records < 1:
        raise ConfigError(f"privacy needs rows to protect, and there are {records}")
    return min(1e-5, 1 / (10 * records))


def epsilon(events: Iterable[SpendEvent], delta: float, replace_one: bool = False) -> float:
    """
    What all events together come to; 0 for none. Raises ConfigError for an event that is no Gaussian mechanism of a
    Poisson sample.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta}; it must lie between 0 and 1")
    return _composed(merged(events), delta, replace_one)


def merged(events: Iterable[SpendEvent]) -> tuple[SpendEvent, ...]:
    """
    The same cost, one event for each noise and rate, in order: events commute, and hundreds of compositions take
    minutes. Raises ConfigError as ``epsilon`` does.
    """
    counted: Counter[tuple[float, float]] = Counter()
    for event in events:
        if not (0 < event.noise_multiplier < math.inf and 0 < event.sample_rate <= 1 and event.steps >= 1):
            raise ConfigError(f"{event} is no release of noise above 0, a rate in (0, 1] and 1 step or more")
        counted[event.noise_multiplier, event.sample_rate] += event.steps
    return tuple(SpendEvent(noise, rate, steps) for (noise, rate), steps in sorted(counted.items()))


def calibrate(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, fixed: Sequence[SpendEvent] = ()
) -> float:
    """
    The smallest noise multiplier, from above, with which ``steps`` steps of this sample rate and the ``fixed``
    events stay at the target epsilon. Raises ConfigError where there is none.
    """
    if (already := epsilon(fixed, delta)) > target_epsilon:
        raise ConfigError(
            f"epsilon = {target_epsilon:g} is spent before training: the rest takes {already:.3g}"
        )

    def too_much(noise: float) -> bool:
        return epsilon([*fixed, SpendEvent(noise, sample_rate, steps)], delta) > target_epsilon

    high = 1.0
    while too_much(high):
        high *= 2
        if high > MOST_NOISE:
            raise ConfigError(
                f"epsilon = {target_epsilon:g} over {steps} steps of rate {sample_rate:.3g} needs a noise multiplier "
                f"above {MOST_NOISE:g}; plan fewer rounds, or a larger epsilon"
            )
    low = high / 2
    while low > LEAST_NOISE and not too_much(low):
        low, high = low / 2, low
    while high / low > 1 + CLOSE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if too_much(middle) else (low, middle)
    return high


def statistics_noise(target_epsilon: float, delta: float, share: float = 0.15) -> float:
    """The noise multiplier of one Gaussian release that takes this share of the target's mu^2."""
    return 1 / (gaussian_mu(target_epsilon, delta) * math.sqrt(share))


def gaussian_mu(target_epsilon: float, delta: float) -> float:
    """
    The mu of Gaussian differential privacy that (epsilon, delta) allows (Dong, Roth and Su, 2022):
    delta = Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2).
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    if not (0 < target_epsilon < math.inf and 0 < delta < 1):
        raise ConfigError(
            f"epsilon = {target_epsilon}, delta = {delta} is no promise: above 0, and delta below 1"
        )

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        below = math.exp(target_epsilon + log_ndtr(-target_epsilon / mu - mu / 2))
        return float(ndtr(-target_epsilon / mu + mu / 2) - below - delta)

    return math.exp(brentq(excess, -30, 30, xtol=1e-12))


def added(spends: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """
    (epsilon, delta) over several studies: they add (Dwork and Roth, 2014), because a later study's settings may
    have been chosen by an earlier one's result, which finer composition does not allow.
    """
    pairs = list(spends)
    return math.fsum(epsilon for epsilon, _ in pairs), math.fsum(delta for _, delta in pairs)


def deltas(events: Iterable[SpendEvent], epsilons: Floats) -> Floats:
    """
    The smallest delta, from above, with which all events together keep each of these epsilons, which must not fall.
    Raises ConfigError as ``epsilon`` does.
    """
    its = merged(events)
    if not its:
        return 0 * epsilons
    return np.asarray(_accountant(its, False).get_delta(epsilons), float)


@lru_cache(1024)
def _composed(events: tuple[SpendEvent, ...], delta: float, replace_one: bool) -> float:
    return float(_accountant(events, replace_one).get_epsilon(delta)) if events else 0.0


@lru_cache(8)
def _accountant(events: tuple[SpendEvent, ...], replace_one: bool) -> Any:
    """The library's, with all events composed."""
    library = _library()
    relation = library.NeighboringRelation
    # REPLACE_SPECIAL is its word for zero-out. Its RDP accountant is wrong for REPLACE_ONE, so PLD only.
    accountant = library.pld.PLDAccountant(
        relation.REPLACE_ONE if replace_one else relation.REPLACE_SPECIAL, _width(events)
    )
    for event in events:
        gaussian: Any = library.GaussianDpEvent(event.noise_multiplier)
        if event.sample_rate < 1:
            gaussian = library.PoissonSampledDpEvent(event.sample_rate, gaussian)
        accountant.compose(gaussian, event.steps)
    return accountant


def mean_loss(events: Iterable[SpendEvent]) -> float:
    """
    A bound on the mean privacy loss. A step of a sample loses at most
    min(q / (2 sigma^2), log(1 + q^2 (e^(1 / sigma^2) - 1))) on average.
    """
    loss = 0.0
    for event in events:
        squared = event.noise_multiplier**-2
        chi = math.log1p(event.sample_rate**2 * math.expm1(squared)) if squared < 700 else math.inf
        loss += event.steps * min(event.sample_rate * squared / 2, chi)
    return loss


def _width(events: Sequence[SpendEvent]) -> float:
    """
    Of the grid: as fine as so many steps and so small a loss need, and no finer than fits. A step with the record in it
    loses 1 / (2 sigma^2).
    """
    loss, most = mean_loss(events), max(event.noise_multiplier**-2 / 2 for event in events)
    steps = sum(event.steps if event.sample_rate < 1 else 1 for event in events)
    mu = min(1, max(0.01, math.sqrt(2 * loss)))
    return max(WIDTH * mu / math.sqrt(max(1, steps / STEPS)), WIDTH * max(loss, most) / LOSS)


@lru_cache(1)
def _library() -> ModuleType:
    """Takes seconds, so not before it is needed."""
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError as error:
        raise ConfigError("privacy needs dp-accounting: pip install 'fedtl[privacy]'") from error
    return dp_accounting
