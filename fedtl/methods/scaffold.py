"""
SCAFFOLD: gradients are corrected by how much the silo's differ from all silos'.

Laws: the first round is FedAvg's; after it c_i = -(change of the weights) / (K lr), and c is the mean of all c_i. K lr is
how far a constant gradient would have moved the weights in K steps, momentum included.
"""

from dataclasses import dataclass

from torch import Tensor

from fedtl.methods.base import Method
from fedtl.methods.losses import OnWeights, TaskLoss
from fedtl.methods.sets import MODEL, RECEIVED, Sets
from fedtl.methods.slot import FinishedRound, Slot
from fedtl.methods.slots import zeros
from fedtl.models.state import State


@dataclass(frozen=True)
class Correction(OnWeights):
    """c - c_i, added to each gradient."""

    def gradient(self, name: str, weight: Tensor, sets: Sets) -> Tensor | None:
        return sets["control"][name] - sets["own_control"][name]


def _own(ended: FinishedRound) -> State:
    common, received, trained = ended.before["control"], ended.before[RECEIVED], ended.after[MODEL]
    return {
        name: own - common[name] + (received[name] - trained[name]) / (ended.reach.get(name) or float("inf"))
        for name, own in ended.before["own_control"].items()
    }


def _common(ended: FinishedRound) -> State:
    """Return c with the silo's change, so that what crosses is the change of c_i, and its mean moves c."""
    own, before = ended.after["own_control"], ended.before["own_control"]
    return {name: c + own[name] - before[name] for name, c in ended.before["control"].items()}


def scaffold() -> Method:
    """
    Karimireddy et al., 2020 (SCAFFOLD): gradients corrected by control variates, the silo's c_i and the common c.
    Option II: c_i becomes c_i - c + (received - trained) / (K lr); c moves by the mean change of the c_i that took part.
    Where only some of N silos are sampled, the paper scales this change by their share |S| / N; here it is not scaled.
    """
    slots = (Slot("own_control", zeros, after=_own), Slot("control", zeros, crosses=True, after=_common))
    return Method(objective=(TaskLoss(), Correction()), slots=slots, sgd_only=True)
