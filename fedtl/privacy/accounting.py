"""
The privacy cost of a schedule of noisy releases, as epsilon and delta, and the noise that keeps a target.

Computed from privacy loss distributions (Sommer et al., 2019), which dp-accounting composes: an upper bound, exact up to
the discretisation, and valid because a study's schedule is fixed before its first round. Adjacency is zero-out: one record
is replaced by nothing, and the number of records is public; replace-one adjacency is stricter.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from operator import le
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.errors import ConfigError
from fedtl.messages import SpendEvent
from fedtl.privacy.repetition import Repetition

Floats = NDArray[np.float64]
MAX_NOISE, MIN_NOISE = (
    1000.0,
    0.01,
)  # noise multipliers above which nothing is learned, below which nothing is hidden
CALIBRATION_TOLERANCE = 1e-3  # relative, between the calibrated and the smallest sufficient noise
GUESSES = 4  # the most guesses of the calibrated noise; after these it is searched for by halving
# The grid of privacy losses. A coarser grid gives a larger epsilon, never a smaller one.
GRID_WIDTH = 1e-3
GRID_STEPS = 1000  # errors add up to steps * width^2, so from this many steps on the grid is finer
GRID_LOSS = 50.0  # from this loss on the grid is coarser, because all of it must fit into memory


def default_delta(records: int) -> float:
    """Return min(1e-5, 1/(10 n)) for n records. Raises ConfigError for none."""
    if records < 1:
        raise ConfigError(f"privacy needs at least 1 training row, and there are {records}")
    return min(1e-5, 1 / (10 * records))


def epsilon(
    events: Iterable[SpendEvent],
    delta: float,
    replace_one: bool = False,
    plan: Iterable[SpendEvent] | None = None,
) -> float:
    """
    Return the epsilon of all events together at this delta; 0 for none. The one function that the ledger, its
    verification, plans and audits use. Raises ConfigError for an event that is not a Gaussian mechanism on a Poisson sample.

    ``plan``: all events of a study of which these are a part. The grid of losses is then that of the plan: still an upper bound, never
    above the plan's own epsilon, and a step need not be computed on another grid in each round.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta}; it must lie between 0 and 1")
    merged = merge_events(events)
    if not merged:
        return 0.0
    return _composed(merged, delta, replace_one, _width(merged if plan is None else merge_events(plan)))


def merge_events(events: Iterable[SpendEvent]) -> tuple[SpendEvent, ...]:
    """
    Merge the events of equal noise and rate, sorted. The cost is the same, because events commute, and composing hundreds
    of events would take minutes. Raises ConfigError as ``epsilon`` does.
    """
    counted: Counter[tuple[float, float]] = Counter()
    for event in events:
        if not (0 < event.noise_multiplier < math.inf and 0 < event.sample_rate <= 1 and event.steps >= 1):
            raise ConfigError(
                f"{event}: noise_multiplier must be above 0, sample_rate in (0, 1] and steps at least 1"
            )
        counted[event.noise_multiplier, event.sample_rate] += event.steps
    return tuple(SpendEvent(noise, rate, steps) for (noise, rate), steps in sorted(counted.items()))


def calibrate(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, fixed: Sequence[SpendEvent] = ()
) -> float:
    """
    Return the smallest noise multiplier, rounded up, with which ``steps`` steps of this sample rate and the ``fixed``
    events cost at most the target epsilon. Raises ConfigError if there is none.
    """
    if (already := epsilon(fixed, delta)) > target_epsilon:
        raise ConfigError(
            f"epsilon = {target_epsilon:g} leaves nothing for training: the released statistics and metrics cost {already:.3g}; "
            "raise privacy.epsilon, or release less"
        )

    def cost(noise: float) -> float:
        return epsilon([*fixed, SpendEvent(noise, sample_rate, steps)], delta)

    most = 2.0 ** math.floor(math.log2(MAX_NOISE))
    guess = _expected_noise(gaussian_mu(target_epsilon, delta), sample_rate, steps, fixed)
    known: dict[float, float] = {}
    hopeless = guess > most / 2 and cost(most) > target_epsilon
    for _ in range(0 if hopeless else GUESSES):
        below, above = _smallest(partial(le, guess))
        known |= {noise: cost(noise) for noise in (below, above)}
        if known[below] > target_epsilon >= known[above]:
            return above
        guess = _likely_noise(known, target_epsilon)
    noise = most if hopeless else _smallest(lambda noise: cost(noise) <= target_epsilon)[1]
    # Where no noise is enough, the search ends at the largest one, which still costs too much.
    if cost(noise) > target_epsilon:
        raise ConfigError(
            f"epsilon = {target_epsilon:g} over {steps} steps of rate {sample_rate:.3g} needs a noise multiplier "
            f"above {most:g}; plan fewer rounds, or a larger epsilon"
        )
    return noise


def _smallest(enough: Callable[[float], bool]) -> tuple[float, float]:
    """
    Return the bounds of the smallest noise that is ``enough``, to the tolerance: by doubling, and halving what is between.
    They do not depend on how many costs were computed, so a guess and a search give one result.
    """
    high = 1.0
    while not enough(high) and 2 * high <= MAX_NOISE:
        high *= 2
    low = high / 2
    while low > MIN_NOISE and enough(low):
        low, high = low / 2, low
    while high / low > 1 + CALIBRATION_TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low, high


def _expected_noise(mu: float, sample_rate: float, steps: int, fixed: Sequence[SpendEvent]) -> float:
    """
    Return about the noise with which all events together are mu-Gaussian private. By the central limit theorem of Bu, Dong,
    Long and Su (2020), mu = q sqrt(steps (e^(1 / sigma^2) - 1)), and squares of mu add up; each event of ``fixed`` is small.
    """
    spent = math.fsum(event.steps * (event.sample_rate / event.noise_multiplier) ** 2 for event in fixed)
    left = max(mu**2 - spent, 0.01 * mu**2)
    if sample_rate == 1:
        return math.sqrt(steps / left)
    return math.log1p(left / (sample_rate**2 * steps)) ** -0.5


def _likely_noise(costs: Mapping[float, float], target: float) -> float:
    """
    Return about the noise that costs the target, from costs that are known: inverse interpolation of the logarithms. Composing
    takes most of the time of a calibration, and a search needs a dozen costs.
    """
    known = [(noise, cost) for noise, cost in costs.items() if 0 < cost < math.inf]
    noises, ratios = np.log([noise for noise, _ in known]), np.log([cost / target for _, cost in known])
    if len(known) < 2:
        return math.sqrt(min(costs) * max(costs))
    return math.exp(np.polynomial.polynomial.polyfit(ratios, noises, len(known) - 1)[0])


def statistics_noise(target_epsilon: float, delta: float, share: float = 0.15) -> float:
    """Return the noise multiplier of one Gaussian release that takes this share of the target's mu^2."""
    return 1 / (gaussian_mu(target_epsilon, delta) * math.sqrt(share))


def gaussian_mu(target_epsilon: float, delta: float) -> float:
    """
    Return the mu of Gaussian differential privacy that (epsilon, delta) allows (Dong, Roth and Su, 2022):
    delta = Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2).
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    if not (0 < target_epsilon < math.inf and 0 < delta < 1):
        raise ConfigError(
            f"epsilon = {target_epsilon}, delta = {delta}: both must be above 0, and delta below 1"
        )

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        below = math.exp(target_epsilon + log_ndtr(-target_epsilon / mu - mu / 2))
        return float(ndtr(-target_epsilon / mu + mu / 2) - below - delta)

    return math.exp(brentq(excess, -30, 30, xtol=1e-12))


def add_costs(spends: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """
    Return the (epsilon, delta) of several studies, which are their sums (Dwork and Roth, 2014): a later study's settings may
    depend on an earlier study's results, which tighter composition does not allow.
    """
    pairs = list(spends)
    return math.fsum(epsilon for epsilon, _ in pairs), math.fsum(delta for _, delta in pairs)


def smallest_deltas(events: Iterable[SpendEvent], epsilons: Floats) -> Floats:
    """
    Return the smallest delta, rounded up, of all events together at each of these epsilons, which must be ascending.
    Raises ConfigError as ``epsilon`` does.
    """
    schedule = merge_events(events)
    if not schedule:
        return 0 * epsilons
    return np.asarray(_losses(schedule, False, _width(schedule)).get_delta_for_epsilon(epsilons), float)


@lru_cache(1 << 16)  # a number each; silos with equally many rows have the same costs in each round
def _composed(events: tuple[SpendEvent, ...], delta: float, replace_one: bool, width: float) -> float:
    return float(_losses(events, replace_one, width).get_epsilon_for_delta(delta))


@lru_cache(8)
def _losses(events: tuple[SpendEvent, ...], replace_one: bool, width: float) -> Any:
    """Return the library's privacy loss distribution of all events together, as its accountant composes it on a grid of this width."""
    together = _library().identity(width)
    for event in events:
        if event.sample_rate < 1:
            step = _one_step(event.noise_multiplier, event.sample_rate, width, replace_one)
            all_steps = step.self_compose(event.steps)
        else:  # Gaussian steps on all rows are one with less noise
            noise = event.noise_multiplier / math.sqrt(event.steps)
            all_steps = _gaussian(noise, 1.0, width, replace_one)
        together = together.compose(all_steps)
    return together


@lru_cache(256)
def _one_step(noise: float, sample_rate: float, width: float, replace_one: bool) -> Repetition:
    """
    Keep the distribution of one sampled step: computing it takes two thirds of the time of a charge, and a silo's noise and rate are
    those of each of its rounds. One takes 20 KB with much noise, and 2 MB with next to none.
    """
    return Repetition(_gaussian(noise, sample_rate, width, replace_one))


def _gaussian(noise: float, sample_rate: float, width: float, replace_one: bool) -> Any:
    library = _library()
    # The library calls zero-out adjacency REPLACE_SPECIAL.
    relation = library.NeighborRel.REPLACE_ONE if replace_one else library.NeighborRel.REPLACE_SPECIAL
    return library.from_gaussian_mechanism(
        noise,
        value_discretization_interval=width,
        sampling_prob=sample_rate,
        neighboring_relation=relation,
    )


def mean_loss(events: Iterable[SpendEvent]) -> float:
    """
    Return a bound on the mean privacy loss. A sampled step loses at most
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
    Return the grid's width: fine enough for the number of steps and the size of the loss, and no finer than memory allows.
    A step that includes the record loses 1 / (2 sigma^2).
    """
    loss, most = mean_loss(events), max(event.noise_multiplier**-2 / 2 for event in events)
    steps = sum(event.steps if event.sample_rate < 1 else 1 for event in events)
    mu = min(1, max(0.01, math.sqrt(2 * loss)))
    return max(
        GRID_WIDTH * mu / math.sqrt(max(1, steps / GRID_STEPS)), GRID_WIDTH * max(loss, most) / GRID_LOSS
    )


@lru_cache(1)
def _library() -> ModuleType:
    """Import what is used of dp-accounting when it is first needed, because that takes seconds. Its RDP accountant is wrong for REPLACE_ONE."""
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError as error:
        raise ConfigError("privacy needs dp-accounting: pip install 'fedtl[privacy]'") from error
    return privacy_loss_distribution
