"""
MR-MTL: each silo trains a model of its own that is pulled to the mean of all silos' models.

Law: with mu = 0 every silo trains alone.
"""

from fedtl._util.settings import Weight
from fedtl.methods.base import Method, Phase, Slot, Use
from fedtl.methods.losses import Proximal, TaskLoss
from fedtl.methods.sets import MODEL
from fedtl.methods.slots import first_model


def mrmtl(mu: Weight = 0.1) -> Method:
    """
    Liu et al., 2022 (MR-MTL): each silo trains a model of its own, pulled to the mean of all, and uses that.

    The personal model v minimises loss(v) + mu/2 ||v - mean of all v||^2. It is what the silo sends, so one set of private
    steps pays for both.
    """
    personal = Phase(on=("personal",), objective=(TaskLoss(), Proximal(mu)), into=MODEL)
    return Method(slots=(Slot("personal", first_model),), phases=(personal,), finish=(Use("personal"),))
