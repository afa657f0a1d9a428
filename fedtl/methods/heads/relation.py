"""Relation head: a small network that was trained in episodes compares a row with each prototype."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.base import class_means

RELATION = "relation"  # the module's name in the model
HIDDEN = 64


def relation_module(features: int) -> nn.Module:
    """Return the module g: from [prototype; features], 2 D numbers, to one number."""
    return nn.Sequential(nn.Linear(2 * features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


@dataclass(frozen=True)
class Relation:
    """
    Sung et al., 2018: the score of class c is g([m_c; q]), with g a network trained in episodes and m_c the prototype of c
    (they sum the support's embeddings). Their g has convolutions on feature maps; this one sees features.
    """

    module: nn.Module

    @torch.no_grad()
    def __call__(self, support: LabelledFeatures, width: int, queries: Tensor) -> Tensor:
        return relation_scores(self.module, class_means(support, width), queries)


def relation_scores(module: Callable[[Tensor], Tensor], prototypes: Tensor, queries: Tensor) -> Tensor:
    """Return g [M, C] for queries [M, D] and prototypes [C, D]."""
    count, width = len(queries), len(prototypes)
    left = prototypes[None].expand(count, -1, -1)
    pairs = torch.cat([left, queries[:, None].expand(-1, width, -1)], 2)
    return module(pairs)[..., 0]
