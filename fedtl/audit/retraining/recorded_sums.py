"""
Privacy guarantees whose randomness is observed or replaced.

``RecordingGuarantee`` records every noisy sum of a private round, and can train the round again with the noisy sums of an
earlier one. Whatever then still differs between two data sets bypassed the noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.noise import Noise

Purpose = tuple[str | int, ...]
NO_SAMPLING_RATE = 1e-12  # a sample rate at which no record is ever sampled


class NoisySum(NamedTuple):
    """A sum over records [n], flat and without noise, the standard deviation of its noise, and the noisy sum [n]."""

    total: Tensor
    std: float
    released: Tensor


@dataclass
class SumRecorder:
    """
    ``sums``: the recorded sums by purpose, in order. ``replayed``: an earlier recording, whose noisy sums are released
    in place of new ones. ``draw``: the uniform numbers that decide who is sampled; None: those of the noise.
    """

    replayed: "SumRecorder | None" = None
    draw: Callable[[int], Tensor] | None = None
    sums: dict[Purpose, list[NoisySum]] = field(default_factory=dict)

    def of(self, kind: str) -> list[NoisySum]:
        """All sums of one kind: "noise", "statistics" or "metric"."""
        return [each for purpose, sums in self.sums.items() if purpose[0] == kind for each in sums]

    def replay(self, purpose: Purpose, number: int) -> Tensor | None:
        """Raises LookupError if the earlier round released fewer sums than this one."""
        return None if self.replayed is None else self.replayed.sums[purpose][number].released


class _RecordedNoise(Noise):
    """Records the sums that it is added to."""

    def __init__(self, source: Noise, purpose: Purpose, recorder: SumRecorder) -> None:
        self._source, self._purpose, self._recorder = source, purpose, recorder
        self.private = source.private

    def uniform(self, count: int) -> Tensor:
        return self._source.uniform(count) if self._recorder.draw is None else self._recorder.draw(count)

    def _bits(self, count: int) -> Any:
        return self._source._bits(count)

    def add(self, total: Tensor, std: float) -> Tensor:
        own = self._recorder.sums.setdefault(self._purpose, [])
        replay = self._recorder.replay(self._purpose, len(own))
        released = self._source.add(total, std) if replay is None else replay.view(total.shape).to(total)
        flat = total.detach().reshape(-1).cpu().double()
        own.append(NoisySum(flat, float(std), released.detach().reshape(-1).cpu().double()))
        return released


@dataclass(frozen=True)
class RecordingGuarantee(PrivacyGuarantee):
    recorder: SumRecorder = field(default_factory=SumRecorder, kw_only=True, compare=False)

    def random(self, *purpose: str | int) -> Noise:
        return _RecordedNoise(super().random(*purpose), purpose, self.recorder)


@dataclass(frozen=True)
class UnsampledGuarantee(PrivacyGuarantee):
    """For a sample rate of NO_SAMPLING_RATE: divides sums by the batch size that the real guarantee expects."""

    divisor: float = field(default=1.0, kw_only=True)

    @property
    def expected_batch(self) -> float:
        return self.divisor


def sample_all_but(left_out: Sequence[int]) -> Callable[[int], Tensor]:
    """Uniform numbers with which every unit is sampled, at any sample rate, except those that are left out."""

    def draw(count: int) -> Tensor:
        numbers = torch.zeros(count, dtype=torch.float64)
        numbers[torch.tensor(list(left_out), dtype=torch.int64)] = 2.0
        return numbers

    return draw
