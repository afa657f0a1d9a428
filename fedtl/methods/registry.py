"""The further loss terms that an experiment may name under ``[method] terms``."""

from collections.abc import Callable

from fedtl.methods.coral import Coral
from fedtl.methods.dann import DomainAdversarial
from fedtl.methods.losses import Proximal, Term
from fedtl.methods.mmd import MaximumMeanDiscrepancy


def dann(weight: float = 1.0) -> DomainAdversarial:
    """Ganin et al., 2016: a discriminator that the body learns to fool."""
    return DomainAdversarial(weight)


def mmd(weight: float = 1.0) -> MaximumMeanDiscrepancy:
    """Gretton et al., 2012; Long et al., 2015: the same feature distribution, to a kernel."""
    return MaximumMeanDiscrepancy(weight)


def coral(weight: float = 1.0) -> Coral:
    """Sun and Saenko, 2016: the same feature covariance."""
    return Coral(weight)


def proximal(mu: float = 0.01) -> Proximal:
    """Li et al., 2020: local weights stay near the received ones."""
    return Proximal(mu)


TERMS: dict[str, Callable[..., Term]] = {f.__name__: f for f in (dann, mmd, coral, proximal)}
