"""Domain-adversarial training."""

from dataclasses import dataclass
from math import exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import Weight
from fedtl.methods.losses import Forward, PerExample


@dataclass(frozen=True)
class DomainAdversarial(PerExample):
    """
    Ganin et al., 2016: a discriminator learns to tell the domains apart, and the body learns to make it fail.

    The loss is BCE(D(f), domain), with D the discriminator and f the features; its gradient into the body is multiplied
    by -weight * lambda(p), lambda(p) = 2 / (1 + exp(-10 p)) - 1, with p the progress of the training.
    """

    weight: Weight = 1.0
    needs_target = True

    def losses(self, out: Forward) -> Tensor:
        strength = self.weight * (2 / (1 + exp(-10 * out.progress)) - 1)
        reversed_features = _Reverse.apply(out.features, strength)  # type: ignore[no-untyped-call]
        guess = out.aux["domain"](reversed_features)[:, 0]
        return F.binary_cross_entropy_with_logits(guess, out.batch.domain, reduction="none")

    def counts(self, out: Forward) -> Tensor:
        """Count all rows of a batch with both domains, and none of a batch with one."""
        second = out.batch.domain > 0
        return (out.batch.domain >= 0) & (second.any() & ~second.all())

    def modules(self, features: int) -> dict[str, nn.Module]:
        return {"domain": nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 1))}


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None
