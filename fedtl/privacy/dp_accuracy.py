"""The accuracy that a private silo reports: a mean over its validation units with noise, charged like every other release."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.messages import SpendEvent
from fedtl.privacy.noise import Noise


@dataclass(frozen=True)
class AccuracyRelease:
    """
    The accuracy of the received model, once a round. ``units``: the number of validation units, which is declared public.
    Each unit adds a number from 0 to 1 to the sum, whose noise has the standard deviation ``noise_multiplier``.
    """

    noise_multiplier: float
    units: int

    @property
    def event(self) -> SpendEvent:
        return SpendEvent(self.noise_multiplier, 1.0, 1)

    @property
    def mean_noise_std(self) -> float:
        """Standard deviation of the noise on the mean."""
        return self.noise_multiplier / self.units


def noisy_mean(values: Tensor, units: Tensor | None, release: AccuracyRelease, noise: Noise) -> float:
    """
    Return the noisy mean over units of ``values`` [N] from 0 to 1; one that is not finite counts as 0. ``units`` [N]: the
    number of each row's unit, from 0 (None: every row is a unit); a unit of several rows counts as their mean.
    """
    values = values.double().nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    if units is not None:
        sums = torch.zeros(int(units.max()) + 1, dtype=torch.float64).index_add_(0, units, values)
        values = sums / units.bincount().clamp_min(1)
    return float(noise.add(values.sum(), release.noise_multiplier) / release.units)
