"""Domain-adversarial training."""

from dataclasses import dataclass
from functools import lru_cache
from math import exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.randomness import torch_generator
from fedtl._util.settings import Weight
from fedtl.methods.losses import Forward, PerExample
from fedtl.models.net import Shape

MAPPED = 256  # numbers that the discriminator sees where it is conditioned on predictions


@dataclass(frozen=True)
class DomainAdversarial(PerExample):
    """
    Ganin et al., 2016: a discriminator learns to tell the domains apart, and the body learns to make it fail.

    The loss is BCE(D(f), domain), with D the discriminator and f the features; its gradient into the body is multiplied
    by -weight * lambda(p), lambda(p) = 2 / (1 + exp(-10 p)) - 1, with p the progress of the training. ``condition`` (CDAN, Long et
    al., 2018): D sees (R f) * (Q g) / sqrt(m) in place of f, with g the predicted probabilities, constant in the gradient, * entry
    by entry, and R and Q random normal matrices of m = MAPPED rows, the same at all silos.
    """

    weight: Weight = 1.0
    condition: bool = False
    needs_target = True
    follows_progress = True

    @property
    def needs_classes(self) -> bool:  # type: ignore[override]
        return self.condition

    def losses(self, out: Forward) -> Tensor:
        return self._losses(out, self.weight * ramp(out.progress))

    def counts(self, out: Forward) -> Tensor:
        """Count all rows of a batch with both domains, and none of a batch with one."""
        second = out.batch.domain > 0
        return (out.batch.domain >= 0) & (second.any() & ~second.all())

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        inputs = MAPPED if self.condition else features
        return {"domain": nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 1))}

    def _losses(self, out: Forward, strength: float) -> Tensor:
        """Return BCE(D, domain) [B]; the gradient into the body is multiplied by -strength."""
        seen: Tensor = _Reverse.apply(out.features, strength)  # type: ignore[no-untyped-call]
        if self.condition:
            seen = _mapped(seen, "features") * _mapped(out.scores.detach().softmax(1), "scores")
        guess = out.aux["domain"](seen)[:, 0]
        return F.binary_cross_entropy_with_logits(guess, out.batch.domain, reduction="none")


def ramp(progress: float) -> float:
    """Return lambda(p), from 0 at the start of the training to almost 1."""
    return 2 / (1 + exp(-10 * progress)) - 1


def _mapped(x: Tensor, what: str) -> Tensor:
    """Return R x / m^(1/4) [B, m] of vectors [B, D]."""
    return x @ _random_map(what, x.shape[1]).to(x) / MAPPED**0.25


@lru_cache(8)
def _random_map(what: str, inputs: int) -> Tensor:
    return torch.randn(inputs, MAPPED, generator=torch_generator("cdan", what, inputs), dtype=torch.float64)


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None
