"""SimCLR: two views of a row have near projections, those of other rows far ones."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import AtLeastOne, Positive
from fedtl.methods.losses import Forward
from fedtl.methods.views import TwoViews, projector
from fedtl.models.net import Shape


def nt_xent(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """
    Return the loss of B pairs of projections, [B, D] each. With z the 2 B projections and s the cosine similarity: the mean over
    all i of -log(exp(s(z_i, z_j) / t) / sum_{k != i} exp(s(z_i, z_k) / t)), with j the other view of i.
    """
    z = F.normalize(torch.cat([one, other]), dim=1)
    likeness = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(z), device=z.device).roll(len(one)))


@dataclass(frozen=True)
class SimCLR(TwoViews):
    """
    Chen et al., 2020 (SimCLR): two views of a row have near projections, those of other rows far ones.

    The loss is weight * ``nt_xent`` of g(f(view)), with f the body and g a projector. Larger batches have more rows to tell apart.
    ``crop``, ``jitter``, ``mirror``, ``corrupt``: see ``TwoViews``.
    """

    weight: Positive = 1.0
    temperature: Positive = 0.5
    dims: AtLeastOne = 64

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {"simclr": projector(features, self.dims)}

    def loss(self, out: Forward) -> Tensor:
        one, other = (out.aux["simclr"](view) for view in self.two_views(out))
        return self.weight * nt_xent(one, other, self.temperature)
