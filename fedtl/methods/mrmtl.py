"""
MR-MTL: each silo trains a model of its own that is pulled to the mean of all silos' models.

Laws: with mu = 0 every silo trains alone; with mu = "inf" it is FedAvg, whose norms' statistics stay at the silo.
"""

import torch

from fedtl._util.settings import Strength
from fedtl.methods import pull
from fedtl.methods.base import Method, Phase, Slot, Use
from fedtl.methods.sets import MODEL, RECEIVED, Sets
from fedtl.methods.slots import first_model, first_reach, last_reach
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.state import State


def mrmtl(mu: Strength = 0.1) -> Method:
    """
    Liu et al., 2022 (MR-MTL): each silo trains a model of its own, pulled to the mean of all, and uses that.

    The models v_k minimise sum_k loss_k(v_k) + mu/2 ||v_k - mean of all v||^2 by forward-backward steps (Combettes and
    Wajs, 2005): a round pulls v to the received mean by the proximal step of the last round's reach, then trains it on
    the loss alone. So the pull is stable at any mu and does not slow the mean down. v is what the silo sends, so one set
    of private steps pays for both.
    """
    strength = float(mu)

    def pulled(sets: Sets) -> State:
        reach, mean = sets["reach"], sets[RECEIVED]
        return {
            name: torch.lerp(own, mean[name], pull.squared(strength, reach[name])) if name in reach else own
            for name, own in sets["personal"].items()
        }

    return Method(
        shared=EVERYTHING - {Role.STATS},
        slots=(Slot("personal", first_model), Slot("reach", first_reach, after=last_reach)),
        phases=(
            Phase(epochs=0, through=pulled, into="personal"),
            Phase(on=("personal",), into=MODEL),
        ),
        finish=(Use(through=pulled),),
    )
