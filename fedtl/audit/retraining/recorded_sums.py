"""
Private rounds whose noisy sums are recorded.

A round can be trained again with the noisy sums of an earlier one. Whatever then still differs between two data sets
bypassed the noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtl.audit.retraining.audited_silo import (
    AuditedSilo,
    as_kind,
    scratch_guarantee,
    try_fit,
    unlimited,
    without_dropout,
)
from fedtl.data.dataset import SiloDataset
from fedtl.messages import SpendEvent, Update
from fedtl.models.state import State
from fedtl.privacy.dp_adabn import StatisticsRelease
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.noise import Noise

Purpose = tuple[str | int, ...]
NO_SAMPLING_RATE = 1e-12  # a sample rate at which no record is ever sampled
STEPS = 2  # of each phase: the second step starts from weights that the noise of the first one changed
CLIP_FACTOR = 1e-3  # so small that almost every record's gradient is clipped in every single tensor
STATISTICS_NOISE_FACTOR = 1e-3  # the factor on the noise of statistics


class NoisySum(NamedTuple):
    """A sum over records [n], flat and without noise, the standard deviation of its noise, and the noisy sum [n]."""

    total: Tensor
    std: float
    released: Tensor


@dataclass
class SumRecorder:
    """
    Records noisy sums. ``sums``: the recorded sums by purpose, in order. ``replayed``: an earlier recording, whose noisy
    sums are released in place of new ones. ``draw``: the uniform numbers that decide which units are sampled; None: the
    guarantee's own.
    """

    replayed: "SumRecorder | None" = None
    draw: Callable[[int], Tensor] | None = None
    sums: dict[Purpose, list[NoisySum]] = field(default_factory=dict)

    def of(self, kind: str) -> list[NoisySum]:
        """All sums of one kind: "noise", "statistics" or "metric"."""
        return [each for purpose, sums in self.sums.items() if purpose[0] == kind for each in sums]

    def replay(self, purpose: Purpose, number: int) -> Tensor | None:
        """
        The noisy sum of the earlier round; None without one. Raises LookupError if it released fewer sums than this one.
        """
        return None if self.replayed is None else self.replayed.sums[purpose][number].released


class _RecordedNoise(Noise):
    """Noise that records the sums to which it is added."""

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
    """A guarantee of sample rate NO_SAMPLING_RATE that divides sums by the batch size that the real guarantee expects."""

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


@dataclass(frozen=True)
class TrainedRound:
    """What left and what stayed, by name and with metrics (None if the round failed), and the recorded sums."""

    outcome: Mapping[str, Tensor] | None
    recorder: SumRecorder


@dataclass(frozen=True)
class _LowNoiseRelease(StatisticsRelease):
    """A release with so little noise that shrinkage towards the initial statistics does not hide the rows."""

    claimed: StatisticsRelease = field(kw_only=True)

    @classmethod
    def of(cls, statistics: StatisticsRelease) -> "_LowNoiseRelease":
        noise = statistics.noise_multiplier * STATISTICS_NOISE_FACTOR
        return cls(noise, statistics.layers, statistics.channels, statistics.units, claimed=statistics)

    @property
    def event(self) -> SpendEvent:
        return self.claimed.event


def statistics_multiplier(guarantee: PrivacyGuarantee) -> float:
    """The noise multiplier of the statistics in ``train_recorded``."""
    statistics = guarantee.releases.statistics
    return 0.0 if statistics is None else statistics.noise_multiplier * STATISTICS_NOISE_FACTOR


def train_recorded(
    audited: AuditedSilo, guarantee: PrivacyGuarantee, data: SiloDataset, recorder: SumRecorder
) -> TrainedRound:
    """One recorded round, with a clip so small that it takes effect in every tensor."""
    statistics, clip = guarantee.releases.statistics, audited.guarantee.training.clip * CLIP_FACTOR
    if statistics is not None:
        statistics = _LowNoiseRelease.of(statistics)
    changed = replace(
        unlimited(guarantee, steps=audited.steps(STEPS), clip=clip),
        releases=replace(guarantee.releases, statistics=statistics),
        canaries=None,
    )
    recorded = as_kind(changed, RecordingGuarantee, recorder=recorder)
    with scratch_guarantee(recorded) as scratch, without_dropout(audited.trainer.net(data.width)):
        fitted = try_fit(lambda: audited.fit(scratch, data))
    return TrainedRound(fitted and _outcome(*fitted), recorder)


def _outcome(update: Update, local: State) -> dict[str, Tensor]:
    metrics = {f"metric {name}": torch.tensor(value) for name, value in update.metrics.items()}
    return {**update.delta, **local, **metrics, "weight": torch.tensor(update.weight)}


def distance_over_noise(base: TrainedRound, other: TrainedRound, kind: str) -> float:
    """The distance between two rounds' sums of a kind, in standard deviations of their noise."""
    some, others = base.recorder.of(kind), other.recorder.of(kind)
    if len(some) != len(others):
        return math.inf
    squares = sum(
        float(((a.total - b.total) ** 2).sum()) / a.std**2 for a, b in zip(some, others, strict=True)
    )
    return math.sqrt(squares) if math.isfinite(squares) else math.inf
