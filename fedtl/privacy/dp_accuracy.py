"""A metric that leaves a private silo: the mean over its validation units, with noise, charged like everything else."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.messages import SpendEvent
from fedtl.privacy.noise import Noise


@dataclass(frozen=True)
class Metric:
    """
    The accuracy of the received model, once a round. ``records``: how many validation units there are, declared public;
    each adds a number of 0 to 1 to the sum, whose noise has the standard deviation ``noise_multiplier``.
    """

    noise_multiplier: float
    records: int

    @property
    def event(self) -> SpendEvent:
        return SpendEvent(self.noise_multiplier, 1.0, 1)

    @property
    def expected(self) -> float:
        """Standard deviation of the noise on the mean."""
        return self.noise_multiplier / self.records


def noisy_mean(values: Tensor, units: Tensor | None, metric: Metric, noise: Noise) -> float:
    """Of values [N] of 0 to 1, a unit's (numbered from 0) counting as their mean; one that is not finite counts 0."""
    values = values.double().nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    if units is not None:
        sums = torch.zeros(int(units.max()) + 1, dtype=torch.float64).index_add_(0, units, values)
        values = sums / units.bincount().clamp_min(1)
    return float(noise.add(values.sum(), metric.noise_multiplier) / metric.records)
