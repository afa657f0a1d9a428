"""
APFL: each silo uses a mixture of the shared model and one of its own, and learns how much of each.

Laws, with a fixed alpha: 0 is FedAvg; with 1 the silo's own model is that of a silo which trains alone.
"""

from collections.abc import Mapping

import torch

from fedtl._util.settings import Fraction
from fedtl.methods.base import Method, Phase, Use
from fedtl.methods.sets import MODEL, Sets
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model
from fedtl.models.roles import Role
from fedtl.models.state import State


def mixed(sets: Sets) -> State:
    """Return alpha v + (1 - alpha) w, with w the model and v the silo's own; counts are the silo's own."""
    alpha = sets["alpha"]["alpha"]
    return {
        name: torch.lerp(sets[MODEL][name], own, alpha) if own.is_floating_point() else own
        for name, own in sets["personal"].items()
    }


def apfl(alpha: Fraction = 0.5, adaptive: bool = True) -> Method:
    """
    Deng et al., 2020 (APFL): each silo uses alpha v + (1 - alpha) w, with w the shared model and v its own.

    w is trained and averaged as in FedAvg; v and, where ``adaptive``, alpha are trained through the mixture.
    """

    def first_alpha(model: State, roles: Mapping[str, Role]) -> State:
        return {"alpha": torch.tensor(alpha)}

    moving = ("personal", "alpha") if adaptive else ("personal",)
    return Method(
        slots=(Slot("personal", first_model), Slot("alpha", first_alpha, shares=True)),
        phases=(Phase(), Phase(on=moving, through=mixed)),
        finish=(Use(through=mixed),),
    )
