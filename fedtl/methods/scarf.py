"""SCARF: a row and a copy with other rows' values in some of its columns have near projections."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import AtLeastOne, Fraction, Positive
from fedtl.methods.losses import Forward, PerBatch
from fedtl.methods.views import corrupted, projector
from fedtl.models.net import Shape


def info_nce(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows i of -log(exp(s(z_i, z'_i) / t) / sum_k exp(s(z_i, z'_k) / t)) of projections [B, D] each, s the cosine."""
    likeness = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / temperature
    return F.cross_entropy(likeness, torch.arange(len(one), device=one.device))


@dataclass(frozen=True)
class Scarf(PerBatch):
    """
    Bahri et al., 2022 (SCARF): a row of a table and a copy with other rows' values in some columns have near projections.

    The loss is weight * ``info_nce`` of g(f(x)) and g(f(x')), with f the body, g a projector and x' from ``views.corrupted`` with the
    share ``corrupt``. The marginal distribution of a column is that of the batch.
    """

    any_task = True

    corrupt: Fraction = 0.6
    weight: Positive = 1.0
    temperature: Positive = 1.0
    dims: AtLeastOne = 64
    source_free = True

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {"scarf": projector(features, self.dims)}

    def loss(self, out: Forward) -> Tensor:
        x = out.batch.x
        features = out.of(torch.cat([x, corrupted(x, self.corrupt)])).features
        one, other = out.aux["scarf"](features).chunk(2)
        return self.weight * info_nce(one, other, self.temperature)
