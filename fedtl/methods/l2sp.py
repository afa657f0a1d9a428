"""Weights stay near those that training started from, not near zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods import pull
from fedtl.methods.losses import OnWeights
from fedtl.methods.sets import START, Sets


@dataclass(frozen=True)
class StartingPoint(OnWeights):
    """
    Li et al., 2018 (L2-SP): the body's weights stay near the starting point, the head's near zero.

    The loss is alpha/2 ||w - w_start||^2 over the body and beta/2 ||w||^2 over the head, taken as proximal steps. The starting
    point is, in every round, the initial weights, which may be pretrained (``Proximal`` pulls to what each round received);
    and in tuning at home the model as the last round left it.
    """

    alpha: Weight = 0.1
    beta: Weight = 0.01

    needs_start = True

    def proximal(self, name: str, weight: Tensor, sets: Sets, reach: float) -> Tensor | None:
        at = torch.full((), reach, device=weight.device)
        if name.startswith("head."):
            return weight * (1 - pull.squared(self.beta, at))
        if name.startswith("body."):
            return torch.lerp(weight, sets[START][name], pull.squared(self.alpha, at))
        return None
