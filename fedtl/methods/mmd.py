"""Maximum mean discrepancy: the features of both domains get the same distribution, measured by a kernel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.losses import Forward, PerBatch

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # factors on the bandwidth, as in DAN (Long et al., 2015)


@dataclass(frozen=True)
class MaximumMeanDiscrepancy(PerBatch):
    """
    Gretton et al., 2012; Long et al., 2015: the same feature distribution in both domains, measured by a kernel.

    The loss is weight * (mean k(s, s') + mean k(t, t') - 2 mean k(s, t)), the biased estimate, with k the mean of
    Gaussian kernels exp(-||a - b||^2 / (w h)), w over WIDTHS and h the mean squared distance over all pairs of the
    batch, constant in the gradient; 0 where a domain has fewer than two rows.
    """

    weight: Weight = 1.0
    needs_target = True

    def loss(self, out: Forward) -> Tensor:
        target = out.batch.domain > 0
        f = out.features
        f = f - f.detach().mean(0)  # distances do not change, but squares of features far from 0 would cancel
        if min(int(target.sum()), int((~target).sum())) < 2:
            return f.sum() * 0
        square = f.pow(2).sum(1)
        distance = (square[:, None] + square[None] - 2 * f @ f.T).clamp_min(0)
        n = len(f)
        bandwidth = (distance.detach().sum() / (n * n - n)).clamp_min(torch.finfo(f.dtype).tiny)
        kernel = torch.stack([torch.exp(-distance / (w * bandwidth)) for w in WIDTHS]).mean(0)
        sign = torch.where(target, -1.0 / target.sum(), 1.0 / (~target).sum()).to(f.dtype)
        return self.weight * (sign @ kernel @ sign)
