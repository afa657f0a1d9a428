"""Random Fourier features: vectors of length 1 whose inner product is a Gaussian kernel, so that a mean of them may cross."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor

from fedtl._util.randomness import torch_generator
from fedtl._util.settings import Count, Weight
from fedtl.methods.losses import Forward

Widths = Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)]
Frequencies = Annotated[int, Ge(1), Le(1 << 16)]
WIDTHS = (0.35, 0.5, 0.7, 1.0, 1.4)  # of the kernels; about sqrt 2 apart, as in DAN (Long et al., 2015)


@dataclass(frozen=True)
class RandomFeatures:
    """
    Rahimi and Recht, 2007: phi(z) = [cos W z; sin W z] / sqrt(frequencies), with W [frequencies, D] normal and each row divided by
    one of the ``widths`` h, which take turns, so that phi(x) . phi(y) is on average the mean over h of the Gaussian kernels
    exp(-||x - y||^2 / (2 h^2)), and ||phi|| = 1 for every z. W depends on ``seed`` and D only, so it is the same at all silos.
    """

    widths: Widths = WIDTHS
    frequencies: Frequencies = 256
    seed: Count = 0

    def of(self, z: Tensor) -> Tensor:
        """Return phi [N, 2 frequencies] of vectors [N, D]."""
        angles = z @ _directions(self, z.shape[1]).to(z).T
        return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(self.frequencies)


@dataclass(frozen=True)
class RandomFeatureSettings:
    """The settings of every term whose ``weight`` is of a comparison by random features."""

    weight: Weight = 1.0
    widths: Widths = WIDTHS
    frequencies: Frequencies = 256
    seed: Count = 0

    @property
    def random_features(self) -> RandomFeatures:
        return RandomFeatures(self.widths, self.frequencies, self.seed)


@lru_cache(16)
def _directions(features: RandomFeatures, inputs: int) -> Tensor:
    """Return W [frequencies, inputs], float64."""
    generator = torch_generator("random features", features.seed, inputs)
    normal = torch.randn(features.frequencies, inputs, generator=generator, dtype=torch.float64)
    turns = torch.arange(features.frequencies) % len(features.widths)
    return normal / torch.tensor(features.widths, dtype=torch.float64)[turns, None]


def unit(features: Tensor) -> Tensor:
    """
    Return the features [N, D] minus their mean in the row, which takes away most of what features that are never negative have
    in common, as vectors of length 1. Two of them are at most 2 apart, and sqrt 2 where they have nothing in common: widths
    are relative to that, and need not follow the features' scale as it changes with training.
    """
    return F.normalize(features - features.mean(1, keepdim=True), dim=1, eps=1e-6)


FEATURES, SCORES = "features", "scores"  # what a term may compare besides layers of the net by path


def paths(layers: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of ``layers`` that are paths in the net."""
    return tuple(layer for layer in layers if layer not in (FEATURES, SCORES))


def layer_output(out: Forward, layer: str) -> Tensor:
    """
    Return what a pass gives at a layer [B, D]: predicted probabilities of "scores", and vectors of length 1 of the features and
    of a layer by its path; of channels with positions, their means over the positions.
    """
    if layer == SCORES:
        return out.scores.softmax(1)
    values = out.features if layer == FEATURES else out.layers[layer]
    return unit(values.flatten(2).mean(2) if values.dim() > 2 else values.flatten(1))
