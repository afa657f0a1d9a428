"""VICReg: two views of a row have near projections, which vary over rows and do not repeat each other."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import AtLeastOne, Weight
from fedtl.methods.losses import Forward
from fedtl.methods.views import TwoViews, projector
from fedtl.models.net import Shape

EPS = 1e-4  # added to variances


def spread(z: Tensor) -> Tensor:
    """Return v(Z) = 1/D sum_j max(0, 1 - sqrt(Var(z_j) + EPS)) of projections [B, D]."""
    return F.relu(1 - (z.var(0) + EPS).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Return c(Z) = 1/D sum_{i != j} C_ij^2 of projections [B, D], with C their covariance."""
    squares = z.T.cov().pow(2)
    return (squares.sum() - squares.diagonal().sum()) / z.shape[1]


@dataclass(frozen=True)
class VICReg(TwoViews):
    """
    Bardes et al., 2022 (VICReg): two views of a row have near projections, which vary over rows and do not repeat each other.

    The loss is invariance / D mean ||z - z'||^2 + variance * (v(Z) + v(Z')) / 2 + covariance * (c(Z) + c(Z')), with projections z and
    z' of D numbers, as in the authors' program; its weights are theirs (25, 25, 1) divided by 5. No row is pushed from another one,
    so small batches will do. 0 for a batch of one row. ``crop``, ``jitter``, ``mirror``, ``corrupt``: see ``TwoViews``.
    """

    invariance: Weight = 5.0
    variance: Weight = 5.0
    covariance: Weight = 0.2
    dims: AtLeastOne = 64

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {"vicreg": projector(features, self.dims)}

    def loss(self, out: Forward) -> Tensor:
        one, other = (out.aux["vicreg"](view) for view in self.two_views(out))
        if len(one) < 2:
            return one.sum() * 0
        near = self.invariance * F.mse_loss(one, other)
        varied = self.variance * torch.stack([spread(one), spread(other)]).mean()
        return near + varied + self.covariance * (covariance(one) + covariance(other))
