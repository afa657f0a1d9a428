"""
FedProto: only class prototypes cross, so that silos may differ in anything but the number of features.

Law: with strength = 0 every silo trains alone.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl._util.settings import Weight
from fedtl.methods.base import Method, Summary
from fedtl.methods.losses import Forward, PerExample, TaskLoss

PROTOTYPES = "prototypes"
LEAST_SHARE = 1e-6  # of the rows: a smaller share is rounding
Length = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Prototypes(Summary):
    """
    What crosses: for each row the matrix onehot(y) [f / clip; 1]^T, [classes, D + 1], with features f that are scaled down to a
    length of ``clip``. Column D of the mean is each class's share of the rows, so the mean over all silos' rows gives the mean
    features of each class, weighted as FedProto weights them. A row without a label counts as zeros. Each matrix is at most
    sqrt(2) long.
    """

    clip: Length = 10.0
    name = PROTOTYPES
    bound = 2**0.5
    by_label = True

    def rows(self, out: Forward) -> Tensor:
        y, width = out.batch.y, out.scores.shape[1]
        counted = torch.cat([clipped(out.features, self.clip) / self.clip, torch.ones_like(y[:, None])], 1)
        members = F.one_hot(y.clamp_min(0), width) * (y != NO_LABEL)[:, None]
        return members[:, :, None] * counted[:, None, :]

    def shape(self, features: int, width: int) -> tuple[int, ...]:
        return (width, features + 1)


def clipped(features: Tensor, clip: float) -> Tensor:
    """Return features [N, D], longer ones scaled down to the length ``clip``."""
    return features * (clip / features.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)


def prototypes_of(mean: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """
    Return the prototypes [classes, D] of a mean of ``Prototypes``, and which classes have rows [classes]. None is longer than
    ``clip``, whatever noise there is.
    """
    shares = mean[:, -1]
    return clipped(clip * mean[:, :-1] / shares.clamp_min(LEAST_SHARE)[:, None], clip), shares > LEAST_SHARE


@dataclass(frozen=True)
class ToPrototypes(PerExample):
    """Tan et al., 2022: strength / D ||f - m_y||^2, with m_y the received prototype of the row's class; 0 before there is one."""

    strength: Weight = 1.0
    clip: Length = 10.0
    needs_classes = True

    def losses(self, out: Forward) -> Tensor:
        means, _ = prototypes_of(out.summary(PROTOTYPES), self.clip)
        wanted = means[out.batch.y.clamp_min(0).long()]
        return self.strength * (clipped(out.features, self.clip) - wanted).pow(2).mean(1)

    def counts(self, out: Forward) -> Tensor:
        _, present = prototypes_of(out.summary(PROTOTYPES), self.clip)
        return out.batch.labelled & present[out.batch.y.clamp_min(0).long()]


def fedproto(strength: Weight = 1.0, clip: Length = 10.0) -> Method:
    """
    Tan et al., 2022 (FedProto): every silo trains a model of its own whose features are pulled to the mean features of their
    class over all silos, and only these means cross, from features of at most ``clip`` length.
    """
    return Method(
        shared=frozenset(),
        objective=(TaskLoss(), ToPrototypes(strength, clip)),
        summaries=(Prototypes(clip),),
    )
