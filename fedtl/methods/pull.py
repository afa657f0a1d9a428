"""
How far a pull moves weights v towards others w: the proximal step of its penalty, argmin_u T penalty(u) + 1/2 ||u - v||^2,
with T the reach of the training that it belongs to. Unlike a step along the gradient, it is stable at any strength: an
infinite pull gives w.

``squared`` and ``unsquared`` return the share s of the way, so that u = v + s (w - v).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedtl.methods.sets import RECEIVED, Sets
from fedtl.models.state import State


def squared(mu: float, reach: Tensor) -> Tensor:
    """Return s = mu T / (1 + mu T), for the penalty mu/2 ||v - w||^2; 1 where mu or mu T is infinite."""
    if math.isinf(mu):  # also of a reach of 0, where mu T is not defined
        return torch.ones_like(reach)
    pull = mu * reach if mu else torch.zeros_like(reach)
    return torch.where(pull.isinf(), 1.0, pull / (1 + pull))


def unsquared(mu: float, reach: Tensor, distance: Tensor) -> Tensor:
    """Return s = min(1, mu T / ||v - w||), for the penalty mu ||v - w||: the pull moves v by mu T, however far w is."""
    pull = mu * reach if mu else torch.zeros_like(reach)
    return torch.where(pull < distance, pull / distance, torch.ones_like(pull) if mu else pull)


def to_received(model: str, mu: float) -> Callable[[Sets], State]:
    """Return the function that pulls this set of tensors to the received model, by ``squared`` with the slot "reach"."""

    def pulled(sets: Sets) -> State:
        reach, received = sets["reach"], sets[RECEIVED]
        return {
            name: torch.lerp(own, received[name], squared(mu, reach[name])) if name in reach else own
            for name, own in sets[model].items()
        }

    return pulled
