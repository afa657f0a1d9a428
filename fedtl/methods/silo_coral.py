"""Deep CORAL between silos: features get the covariance that was received."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from fedtl._util.settings import Count, Weight
from fedtl.methods.coral import covariance_distance
from fedtl.methods.group_means import GroupMeans, group_means
from fedtl.methods.losses import Forward, PerBatch
from fedtl.methods.random_features import unit
from fedtl.methods.ridge_sums import Projection, matrix_of, upper_triangle

Dims = Annotated[int, Ge(1), Le(1024)]


@dataclass(frozen=True)
class ProjectedMoments(GroupMeans):
    """
    First and second moments of u, the ``projected`` features as a vector of length 1: the upper triangle of phi phi^T with
    phi = [u; 1] / sqrt 2, entries off the diagonal times sqrt 2, so that it is as long as the matrix: ||phi||^2 = 1.
    """

    name: str
    projection: Projection

    def projected(self, out: Forward) -> Tensor:
        """Return u [B, p]."""
        return unit(self.projection.of(out.features))

    def vectors(self, out: Forward) -> Tensor:
        u = self.projected(out)
        return upper_triangle(torch.cat([u, u.new_ones(len(u), 1)], 1) / math.sqrt(2))

    def numbers(self, features: int, width: int) -> int:
        size = self.projection.size(features) + 1
        return size * (size + 1) // 2

    def covariance(self, mean: Tensor) -> Tensor:
        """Return the covariance of u [p, p] of a mean of ``vectors``."""
        moments = 2 * matrix_of(mean)
        return moments[:-1, :-1] - torch.outer(moments[-1, :-1], moments[-1, :-1])


@dataclass(frozen=True)
class SiloCoral(PerBatch):
    """
    Sun and Saenko, 2016: features have the same covariance in silos with and without labels, as it crosses.

    The features are projected to ``dims`` by a random matrix of ``seed`` and are sqrt(dims) long. The loss is the sum over rows
    with and without labels of weight / (4 dims^2) ||C - C'||_F^2, with C the unbiased covariance of those rows of a batch and C'
    the one of the other rows of all silos. Where no silo has such rows, with less than two rows of its own and in the first
    round it is 0.
    """

    weight: Weight = 1.0
    dims: Dims = 64
    seed: Count = 0
    needs_target = True
    source_free = True

    @property
    def moments(self) -> ProjectedMoments:
        return ProjectedMoments("moments", Projection(self.dims, self.seed))

    def summaries(self) -> tuple[ProjectedMoments]:
        return (self.moments,)

    def loss(self, out: Forward) -> Tensor:
        means, share = group_means(out.summary("moments"))
        u, target = self.moments.projected(out), out.batch.domain > 0
        losses = [u.sum() * 0]
        for rows, other in ((u[~target], 1), (u[target], 0)):
            if share[other] > 0 and len(rows) > 1:
                size = rows.shape[
                    1
                ]  # of vectors of length 1 the covariance is that of length sqrt(size) divided by it
                reference = self.moments.covariance(means[other].to(u))
                losses.append(covariance_distance(size * torch.cov(rows.T), size * reference))
        return self.weight * torch.stack(losses).sum()
