"""
Ditto: each silo also trains a model of its own, which is pulled to the shared one.

Laws: with mu = 0 the silo's own model is that of a silo which trains alone; with mu = "inf" it is the received one.
"""

from fedtl._util.settings import Strength
from fedtl.methods.base import Method, Phase, Use
from fedtl.methods.losses import Proximal, TaskLoss
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model


def ditto(mu: Strength = 0.1) -> Method:
    """
    Li et al., 2021 (Ditto): each silo also trains a model of its own, pulled to the received one, and uses that.

    The personal model v minimises loss(v) + mu/2 ||v - w_received||^2; w is trained and averaged as in FedAvg.
    """
    return Method(
        slots=(Slot("personal", first_model),),
        phases=(Phase(), Phase(on=("personal",), objective=(TaskLoss(), Proximal(float(mu))))),
        finish=(Use("personal"),),
    )
