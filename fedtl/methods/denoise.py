"""Denoising autoencoder: the body and a decoder rebuild each row from a noisy copy."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import AtLeastOne, Positive
from fedtl.methods.losses import Forward, PerExample
from fedtl.models.net import Shape

Noise = Literal["gaussian", "zeros"]


def decoder(features: int, hidden: int, shape: Shape) -> nn.Module:
    """Return d, with one hidden layer: it turns features into an input of shape ``shape``, flattened."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, prod(shape)))


def errors(rebuilt: Tensor, x: Tensor) -> Tensor:
    """
    Return the error of each entry [B, M] of rows x [B, ...]: with e the difference, e^2 / 2 where |e| < 1, else |e| - 1/2 (Huber, 1964).
    Squared errors of inputs that are not scaled would make training diverge.
    """
    return F.smooth_l1_loss(rebuilt, x.flatten(1), reduction="none")


class AddNoise(nn.Module):
    """
    Adds noise to inputs in training mode: normal with the standard deviation ``level``, or zeros in the place of each number
    with probability ``level``.
    """

    def __init__(self, noise: Noise, level: float) -> None:
        super().__init__()
        self.noise, self.level = noise, level

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.noise == "zeros":
            return x * (torch.rand_like(x) >= self.level)
        return x + self.level * torch.randn_like(x)


@dataclass(frozen=True)
class Denoise(PerExample):
    """
    Vincent et al., 2008: the body and a decoder rebuild each row from a noisy copy.

    The loss of a row x is weight times the mean over its entries of ``errors`` of d(f(x')), with f the body, d the decoder and x' from
    ``AddNoise``.
    """

    any_task = True

    noise: Noise = "gaussian"
    level: Positive = 0.5
    weight: Positive = 1.0
    hidden: AtLeastOne = 128
    source_free = True

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {
            "denoise": decoder(features, self.hidden, shape),
            "denoise_noise": AddNoise(self.noise, self.level),
        }

    def losses(self, out: Forward) -> Tensor:
        x = out.batch.x
        rebuilt = out.aux["denoise"](out.of(out.aux["denoise_noise"](x)).features)
        return self.weight * errors(rebuilt, x).mean(1)
