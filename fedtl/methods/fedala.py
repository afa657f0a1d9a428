"""
FedALA: each round begins with a learned mixture of the received model and the silo's last own one.

Law: without mask steps it is FedAvg.
"""

from collections.abc import Mapping

import torch

from fedtl._util.settings import Count, Weight
from fedtl.methods.base import Method, Phase, Use
from fedtl.methods.sets import MODEL, RECEIVED, Sets
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model, trained_model
from fedtl.models.roles import Role
from fedtl.models.state import State


def mixed(sets: Sets) -> State:
    """Return, where there is a mask, own + mask (received - own), entry by entry; elsewhere the received model."""
    masks, own = sets["mask"], sets["own"]
    return {
        name: torch.lerp(own[name], received, masks[name]) if name in masks else received
        for name, received in sets[RECEIVED].items()
    }


def fedala(mask_epochs: Count = 1, mask_lr: Weight = 1.0, layers: tuple[str, ...] = ("head.",)) -> Method:
    """
    Zhang et al., 2023 (FedALA): a round begins with a mixture of the received model and the silo's own, learned entry by entry.

    The mixture is own + m (received - own) with a mask m of entries in 0..1, for the tensors whose names begin with one of ``layers``; the
    others are as received. m is trained for ``mask_epochs``, with the model through it, by plain steps of ``mask_lr``; then the mixture
    is trained as in FedAvg.
    """

    def ones(model: State, roles: Mapping[str, Role]) -> State:
        return {
            name: torch.ones_like(tensor)
            for name, tensor in model.items()
            if name.startswith(layers) and tensor.is_floating_point()
        }

    return Method(
        slots=(Slot("own", first_model, after=trained_model), Slot("mask", ones, shares=True)),
        phases=(Phase(on=("mask",), epochs=mask_epochs, through=mixed, into=MODEL, lr=mask_lr), Phase()),
        finish=(Use(through=mixed),),
    )
