"""
MR-MTL: each silo trains a model of its own that is pulled to the mean of all silos' models.

Laws: with mu = 0 every silo trains alone; with mu = "inf" it is FedAvg, whose norms' statistics stay at the silo. A grid
changes nothing of what a silo sends.
"""

from fedtl._util.settings import Strength
from fedtl.methods.base import Method, Phase, Use
from fedtl.methods.pull import to_received
from fedtl.methods.sets import MODEL
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model, first_reach, last_reach
from fedtl.models.roles import EVERYTHING, Role


def mrmtl(mu: Strength = 0.1, grid: tuple[Strength, ...] = ()) -> Method:
    """
    Liu et al., 2022 (MR-MTL): each silo trains a model of its own, pulled to the mean of all, and uses that.

    The models v_k minimise sum_k loss_k(v_k) + mu/2 ||v_k - mean of all v||^2 by forward-backward steps (Combettes and
    Wajs, 2005): a round pulls v to the received mean by the proximal step of the last round's reach, then trains it on
    the loss alone. So the pull is stable at any mu and does not slow the mean down. v is what the silo sends, so one set
    of private steps pays for both.

    ``grid``: further strengths, such as [0, 1, "inf"]. For each, the silo trains one more model, which is pulled to the same
    mean and never leaves. It uses that of ``mu`` unless its validation rows clearly say that another is better.
    """
    personal = {"personal": float(mu)}
    others = {f"at_{float(other):g}": float(other) for other in grid if float(other) != float(mu)}
    models = personal | others
    pulled = {name: to_received(name, strength) for name, strength in models.items()}
    phases: list[Phase] = []
    for name in models:
        phases += [
            Phase(epochs=0, through=pulled[name], into=name),
            Phase(on=(name,), into=MODEL if name in personal else None),
        ]
    return Method(
        shared=EVERYTHING - {Role.STATS},
        slots=(*(Slot(name, first_model) for name in models), Slot("reach", first_reach, after=last_reach)),
        phases=tuple(phases),
        finish=(Use(through=pulled["personal"], others=tuple(pulled[name] for name in others)),),
    )
