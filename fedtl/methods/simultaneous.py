"""Simultaneous transfer: domains are confused, and soft labels carry what classes look like, as one method."""

from fedtl._util.settings import Weight
from fedtl.methods import sharing
from fedtl.methods.base import Method
from fedtl.methods.silo_dann import Pace, SiloAdversarial
from fedtl.methods.soft_labels import SoftLabels, Temperature


def simultaneous(
    weight: Weight = 1.0, pace: Pace = 0.1, labels: Weight = 1.0, temperature: Temperature = 2.0
) -> Method:
    """
    Tzeng et al., 2015: the terms silo_dann (``weight``, ``pace``) and soft_labels (``labels`` its weight, ``temperature``), for
    silos with no or few labels; shares as silobn does.
    """
    return sharing.silobn().plus(SiloAdversarial(weight, pace=pace), SoftLabels(labels, temperature))
