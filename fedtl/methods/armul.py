"""
ARMUL: each silo trains a model of its own that is pulled to a common centre by a force that does not grow with the distance.

Laws: with mu = 0 every silo trains alone; with mu = "inf" it is FedAvg, whose norms' statistics stay at the silo.
"""

import torch

from fedtl._util.settings import Strength
from fedtl.methods import pull
from fedtl.methods.base import Method, Phase, Use
from fedtl.methods.sets import MODEL, RECEIVED, Sets
from fedtl.methods.slot import FinishedRound, Slot
from fedtl.methods.slots import first_model, first_reach, last_reach
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.state import State


def armul(mu: Strength = 0.03) -> Method:
    """
    Duan and Wang, 2023 (ARMUL): as mrmtl, with an unsquared pull: near silos use the centre itself, far ones detach.

    The models v_k and the centre w minimise sum_k loss_k(v_k) + mu ||v_k - w||. A round pulls v by the proximal step of
    the last round's reach and trains it on the loss alone; the silo sends how far this training moved v, which the pull
    balances, so a far silo moves the centre by no more than mu times its reach.
    """
    strength = float(mu)

    def pulled(sets: Sets) -> State:
        reach, centre, own = sets["reach"], sets[RECEIVED], sets["personal"]
        distance = torch.stack([(own[name] - centre[name]).norm() for name in reach]).norm()
        shares = {name: pull.unsquared(strength, reach[name], distance) for name in reach}
        return {
            name: torch.lerp(tensor, centre[name], shares[name]) if name in shares else tensor
            for name, tensor in own.items()
        }

    def sent(sets: Sets) -> State:
        """Return the centre moved by the training: v - (v before training - received centre)."""
        start, centre = pulled(sets), sets[RECEIVED]
        return {
            name: trained - (start[name] - centre[name]) if name in sets["reach"] else trained
            for name, trained in sets[MODEL].items()
        }

    def own(ended: FinishedRound) -> State:
        before, moved = ended.before, ended.after[MODEL]
        start, centre = pulled(before), before[RECEIVED]
        return {
            name: tensor + (start[name] - centre[name]) if name in before["reach"] else tensor
            for name, tensor in moved.items()
        }

    return Method(
        shared=EVERYTHING - {Role.STATS},
        slots=(Slot("personal", first_model, after=own), Slot("reach", first_reach, after=last_reach)),
        phases=(
            Phase(epochs=0, through=pulled, into=MODEL),
            Phase(),
            Phase(epochs=0, through=sent, into=MODEL),
        ),
        finish=(Use(through=pulled),),
    )
