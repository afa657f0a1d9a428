"""
Composes privacy loss distributions with dp-accounting, and keeps what the rounds of a study have in common.

A ledger states after each round what all rounds so far cost. What takes most of the time depends on one step alone: its
distribution on the grid, and that distribution's moments, which bound the sum of the steps. Both are kept here. Every
number equals that of the library's own accountant bit for bit: the same operations are done in the same order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.errors import ConfigError
from fedtl.messages import SpendEvent

TAIL_MASS = 1e-15  # what the library lets a composition move to an infinite loss
KEPT_STEPS = 256  # distributions of one step that are kept, for as many silos of different sizes
KEPT_POINTS = 10_000  # larger ones are not kept: together they would fill the memory


def compose(events: Sequence[SpendEvent], width: float, replace_one: bool) -> Any:
    """
    Return the library's distribution of the privacy loss of all events together, on a grid of this width, for zero-out or
    replace-one adjacency.
    """
    total = library().pld.privacy_loss_distribution.identity(value_discretization_interval=width)
    for event in events:
        total = total.compose(_composed_event(event, width, replace_one), TAIL_MASS)
    return total


def _composed_event(event: SpendEvent, width: float, replace_one: bool) -> Any:
    if event.sample_rate == 1:  # Gaussian noise on all records composes to Gaussian noise
        noise = event.noise_multiplier / math.sqrt(event.steps)
        return _gaussian(noise, 1.0, width, replace_one)
    step = _sampled_step(event.noise_multiplier, event.sample_rate, width, replace_one)
    return step.composed(event.steps)


def _gaussian(noise: float, rate: float, width: float, replace_one: bool) -> Any:
    relation = library().NeighboringRelation
    return library().pld.privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise,
        value_discretization_interval=width,
        sampling_prob=rate,
        # REPLACE_SPECIAL is its name for zero-out. Its RDP accountant is wrong for REPLACE_ONE, so PLD only.
        neighboring_relation=relation.REPLACE_ONE if replace_one else relation.REPLACE_SPECIAL,
    )


@dataclass(frozen=True)
class _Masses:
    """The probabilities of one step's losses, on consecutive points of the grid from ``lowest`` on."""

    width: float
    lowest: int
    masses: NDArray[np.float64]
    infinite: float

    @cached_property
    def log_moments(self) -> list[tuple[float, float]]:
        """Orders, and the logarithm of the moment generating function at each: those of the library's Chernoff bound."""
        from scipy.special import logsumexp

        points = len(self.masses)
        orders = np.concatenate((np.arange(-20, 0), np.arange(1, 21))) / points
        return [(order, logsumexp(np.arange(points) * order, b=self.masses)) for order in orders]

    def _bounds(self, times: int) -> tuple[int, int]:
        """Return between which points of the grid the sum of so many losses lies, but for TAIL_MASS."""
        lower, upper = 0, (len(self.masses) - 1) * times
        for order, log_moment in self.log_moments:
            bound = (times * log_moment + math.log(2 / TAIL_MASS)) / order
            if not math.isfinite(bound):
                continue
            if order > 0:
                upper = min(upper, math.ceil(bound))
            else:
                lower = max(lower, math.floor(bound))
        return lower, upper

    def composed(self, times: int) -> Any:
        """Return the library's distribution of the sum of so many losses, by a Fourier transform."""
        from scipy import fft

        lower, upper = self._bounds(times)
        size = upper - lower + 1
        length = fft.next_fast_len(max(size, len(self.masses)))
        sums = np.real(fft.ifft(fft.fft(self.masses, length) ** times))
        infinite = TAIL_MASS - math.expm1(times * math.log1p(-self.infinite))
        return library().pld.pld_pmf.DensePLDPmf(
            self.width, self.lowest * times + lower, np.roll(sums, -lower)[:size], infinite, True
        )


@dataclass(frozen=True)
class _Step:
    """
    One sampled step. ``parts``: the library's distributions of its loss where a record is removed and where one is added; or
    one, where both are the same.
    """

    parts: tuple[Any, ...]

    @cached_property
    def _masses(self) -> list[_Masses]:
        dense = [part.to_dense_pmf() for part in self.parts]
        return [
            _Masses(one._discretization, one._lower_loss, one._probs, one._infinity_mass) for one in dense
        ]

    @property
    def points(self) -> int:
        return max(part.size for part in self.parts)

    def composed(self, times: int) -> Any:
        """Return the library's distribution of the loss of so many steps."""
        composed = [
            part.self_compose(times, TAIL_MASS) if _stays_sparse(part, times) else masses.composed(times)
            for part, masses in zip(self.parts, self._masses, strict=True)
        ]
        return library().pld.privacy_loss_distribution.PrivacyLossDistribution(*composed)


_kept: dict[tuple[float, float, float, bool], _Step] = {}
_lock = Lock()


def _stays_sparse(part: Any, times: int) -> bool:
    """Whether the library composes these few points without a Fourier transform."""
    pmf = library().pld.pld_pmf
    few = (
        part.size ** min(times, 20) <= pmf._MAX_PMF_SPARSE_SIZE
    )  # two points to the 20th are too many already
    return isinstance(part, pmf.SparsePLDPmf) and (times == 1 or few)


def _sampled_step(noise: float, rate: float, width: float, replace_one: bool) -> _Step:
    """Return one sampled step, which may have been kept. Those that were used last are kept."""
    key = noise, rate, width, replace_one
    with _lock:
        step = _kept.pop(key, None)
    step = step or _new_step(*key)
    if step.points <= KEPT_POINTS:
        with _lock:
            _kept[key] = step
            if len(_kept) > KEPT_STEPS:
                del _kept[next(iter(_kept))]
    return step


def _new_step(noise: float, rate: float, width: float, replace_one: bool) -> _Step:
    one = _gaussian(noise, rate, width, replace_one)
    return _Step((one._pmf_remove,) if one._symmetric else (one._pmf_remove, one._pmf_add))


@lru_cache(1)
def library() -> ModuleType:
    """Import dp-accounting when it is first needed, because that takes seconds. Raises ConfigError where it is missing."""
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError as error:
        raise ConfigError("privacy needs dp-accounting: pip install 'fedtl[privacy]'") from error
    return dp_accounting
