"""
Composes a privacy loss distribution with itself many times, as dp-accounting does and to the same bits, but computes only once
what does not depend on how many times: the moments that bound the tails, which take most of the time.

A silo composes the same step again in each round. This reads fields that dp-accounting does not document; pyproject.toml pins its
version, and a test compares every result with its ``self_compose``.
"""

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TAIL = (
    1e-15  # the probability that is cut off and counted as an infinite loss: the default of ``self_compose``
)
ORDERS = np.concatenate((np.arange(-20, 0), np.arange(1, 21)))


class Repeatable(Protocol):
    """One step, which can be composed with itself."""

    def self_compose(self, times: int, /) -> Any:
        """Return the privacy loss distribution of that number of steps."""


class Repetition:
    """A privacy loss distribution of dp-accounting, to compose with itself."""

    def __init__(self, step: Any) -> None:
        self._type, self._symmetric = type(step), bool(step._symmetric)
        both = [step._pmf_remove] if self._symmetric else [step._pmf_remove, step._pmf_add]
        self._parts: list[Repeatable] = [_Dense(part) if hasattr(part, "_probs") else part for part in both]

    def self_compose(self, times: int) -> Any:
        """Return the library's ``self_compose``."""
        return self._type(*(part.self_compose(times) for part in self._parts))


class _Dense:
    """The losses in one direction, for each point of a grid."""

    def __init__(self, part: Any) -> None:
        from scipy.special import logsumexp

        self._part, self._probabilities = part, np.asarray(part._probs)
        size = len(self._probabilities)
        self._orders = ORDERS / size
        self._log_moments = [
            float(logsumexp(np.arange(size) * order, b=self._probabilities)) for order in self._orders
        ]

    def self_compose(self, times: int) -> Any:
        part = self._part
        lower, upper = self._bounds(times)
        infinite = TAIL - math.expm1(times * math.log1p(-part._infinity_mass))
        return type(part)(
            part._discretization,
            part._lower_loss * times + lower,
            self._convolved(times, lower, upper),
            infinite,
            part._pessimistic_estimate,
        )

    def _bounds(self, times: int) -> tuple[int, int]:
        """Return between which points of the grid all but ``TAIL`` of the probability lies, by Chernoff's bound."""
        lower, upper = 0, (len(self._probabilities) - 1) * times
        for order, log_moment in zip(self._orders, self._log_moments, strict=True):
            bound = (times * log_moment + math.log(2 / TAIL)) / order
            if math.isfinite(bound) and order > 0:
                upper = min(upper, math.ceil(bound))
            elif math.isfinite(bound):
                lower = max(lower, math.floor(bound))
        return lower, upper

    def _convolved(self, times: int, lower: int, upper: int) -> NDArray[np.float64]:
        from scipy import fft

        size = upper - lower + 1
        length = fft.next_fast_len(max(size, len(self._probabilities)))
        powers = fft.fft(self._probabilities, length) ** times
        return np.array(np.roll(np.real(fft.ifft(powers)), -lower)[:size])
