"""Deep CORAL: the features of both domains get the same covariance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.losses import Forward, PerBatch


@dataclass(frozen=True)
class Coral(PerBatch):
    """
    Sun and Saenko, 2016: the same feature covariance in both domains.

    The loss is weight / (4 d^2) ||C_s - C_t||_F^2, with C the unbiased covariance of the d features over a domain's
    rows of the batch; 0 where a domain has fewer than two rows.
    """

    weight: Weight = 1.0
    needs_target = True

    def loss(self, out: Forward) -> Tensor:
        target = out.batch.domain > 0
        source_rows, target_rows = out.features[~target], out.features[target]
        if min(len(source_rows), len(target_rows)) < 2:
            return out.features.sum() * 0
        return self.weight * covariance_distance(torch.cov(source_rows.T), torch.cov(target_rows.T))


def covariance_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return ||C_1 - C_2||_F^2 / (4 d^2) of two covariances [d, d]."""
    return (one - other).pow(2).sum() / (4 * len(one) ** 2)
