"""
The line between private rows and what may leave: every noisy sum and every sample of a private round, as an observer at
that line sees them, and the same round again with the answers of an earlier one.

With the answers fixed, whatever still differs between two data sets went around the noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.noise import Noise

Purpose = tuple[str | int, ...]


class Sum(NamedTuple):
    """One sum over records [n], flat and before its noise, the standard deviation asked for, and what was released [n]."""

    total: Tensor
    std: float
    released: Tensor


@dataclass
class Tap:
    """
    ``sums``: by purpose, in order. ``answers``: the sums of an earlier round, whose ``released`` are given out in place
    of new ones. ``drawn``: the uniform numbers that decide who is sampled; None: the noise's own.
    """

    answers: "Tap | None" = None
    drawn: Callable[[int], Tensor] | None = None
    sums: dict[Purpose, list[Sum]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Sum]:
        """All sums of one kind: "noise", "statistics" or "metric"."""
        return [one for purpose, sums in self.sums.items() if purpose[0] == kind for one in sums]

    def answer(self, purpose: Purpose, number: int) -> Tensor | None:
        """Raises LookupError where the earlier round released fewer sums than this one."""
        return None if self.answers is None else self.answers.sums[purpose][number].released


class _TappedNoise(Noise):
    """Noise that writes down what it is added to."""

    def __init__(self, source: Noise, purpose: Purpose, tap: Tap) -> None:
        self._source, self._purpose, self._tap = source, purpose, tap
        self.private = source.private

    def uniform(self, count: int) -> Tensor:
        return self._source.uniform(count) if self._tap.drawn is None else self._tap.drawn(count)

    def _bits(self, count: int) -> Any:
        return self._source._bits(count)

    def add(self, total: Tensor, std: float) -> Tensor:
        own = self._tap.sums.setdefault(self._purpose, [])
        answer = self._tap.answer(self._purpose, len(own))
        released = self._source.add(total, std) if answer is None else answer.view(total.shape).to(total)
        flat = total.detach().reshape(-1).cpu().double()
        own.append(Sum(flat, float(std), released.detach().reshape(-1).cpu().double()))
        return released


@dataclass(frozen=True)
class Tapped(PrivacyGuarantee):
    """A promise whose noise is watched."""

    tap: Tap = field(default_factory=Tap, kw_only=True, compare=False)

    def random(self, *purpose: str | int) -> Noise:
        return _TappedNoise(super().random(*purpose), purpose, self.tap)


def all_but(left_out: Sequence[int]) -> Callable[[int], Tensor]:
    """Uniform numbers with which every unit is sampled, at any rate, but those that are left out."""

    def drawn(count: int) -> Tensor:
        numbers = torch.zeros(count, dtype=torch.float64)
        numbers[torch.tensor(list(left_out), dtype=torch.int64)] = 2.0
        return numbers

    return drawn
