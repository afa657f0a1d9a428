"""
FedProto: only class prototypes cross, so that silos may differ in anything but the number of features.

Law: with strength = 0 every silo trains alone.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.base import Method
from fedtl.methods.group_means import GroupMeans, class_groups, group_means
from fedtl.methods.losses import Forward, PerExample, TaskLoss

PROTOTYPES = "prototypes"
Length = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Prototypes(GroupMeans):
    """
    The mean over rows of each class of f / ``clip``, with features f of which longer ones are scaled down to the length
    ``clip``. Over all silos' rows, so a silo counts by its rows of the class, as in FedProto.
    """

    clip: Length = 10.0
    name: str = PROTOTYPES
    by_label = True

    def vectors(self, out: Forward) -> Tensor:
        return limited(out.features / self.clip)

    def numbers(self, features: int, width: int) -> int:
        return features


def limited(vectors: Tensor) -> Tensor:
    """Return vectors [N, D], of which longer ones are scaled down to the length 1."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1)


def prototypes_of(received: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """
    Return the prototypes [classes, D] of a received mean of ``Prototypes``, none longer than ``clip`` whatever noise there is,
    and which classes have rows [classes].
    """
    means, shares = group_means(received)
    return clip * limited(means), shares > 0


@dataclass(frozen=True)
class ToPrototypes(PerExample):
    """
    Tan et al., 2022: features are pulled to the mean features of their class over all silos.

    The loss is strength / D ||f - m_y||^2, with f at most ``clip`` long and m_y the received prototype of the row's class; 0
    before there is one.
    """

    strength: Weight = 1.0
    clip: Length = 10.0
    needs_classes = True

    def summaries(self) -> tuple[Prototypes]:
        return (Prototypes(self.clip),)

    def losses(self, out: Forward) -> Tensor:
        means, _ = prototypes_of(out.summary(PROTOTYPES), self.clip)
        wanted = class_groups(out).to(means) @ means
        return self.strength * (self.clip * limited(out.features / self.clip) - wanted).pow(2).mean(1)

    def counts(self, out: Forward) -> Tensor:
        _, present = prototypes_of(out.summary(PROTOTYPES), self.clip)
        return (class_groups(out) * present).sum(1) > 0


def fedproto(strength: Weight = 1.0, clip: Length = 10.0) -> Method:
    """
    Tan et al., 2022 (FedProto): every silo trains a model of its own whose features are pulled to the mean features of their
    class over all silos, and only these means cross, from features of at most ``clip`` length.
    """
    term = ToPrototypes(strength, clip)
    return Method(shared=frozenset(), objective=(TaskLoss(), term), summaries=term.summaries())
