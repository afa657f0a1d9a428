"""What moves weights in addition to gradients: the terms on weights of a phase, and the limits of shares."""

from typing import TYPE_CHECKING

import torch

from fedtl.messages import Task
from fedtl.methods.base import Method, Phase, terms_of
from fedtl.methods.losses import OnWeights
from fedtl.methods.sets import START
from fedtl.training.weights import Weights

if TYPE_CHECKING:
    from fedtl.training.loop import Loop, Moving


@torch.no_grad()
def after_step(loop: "Loop", weights: Weights, phase: Phase, moving: "Moving", task: Task) -> None:
    """Move each weight by the proximal steps of the terms on weights, and shares that have left 0..1 back to its ends."""
    terms = terms_on_weights(loop.method, weights, phase)
    for name, weight in moving if terms else ():
        for term in terms:
            reach = loop.training.reach_of_step(name, task)
            if (moved := term.proximal(name, weight, weights.sets, reach)) is not None:
                weight.copy_(moved)
    for slot in loop.method.slots:
        if slot.shares and slot.name in phase.on:
            for share in weights.sets[slot.name].values():
                share.clamp_(0, 1)


def terms_on_weights(method: Method, weights: Weights, phase: Phase) -> list[OnWeights]:
    """Return the phase's terms on weights; after the last round only those that need a starting point."""
    return [
        term
        for term in terms_of(method, phase)
        if isinstance(term, OnWeights) and (START in weights.sets if term.needs_start else weights.in_round)
    ]
