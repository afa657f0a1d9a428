"""Pseudo-labels: rows without labels are trained on the model's own sure answers."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fedtl._util.settings import Fraction, Weight
from fedtl.methods.losses import Forward, PerExample


@dataclass(frozen=True)
class PseudoLabel(PerExample):
    """
    Lee, 2013: rows without labels are trained on the model's own sure answers.

    The loss of such a row is weight * CE(scores, argmax scores) where the largest probability is at least ``sure``; the
    other rows do not count.
    """

    weight: Weight = 1.0
    sure: Fraction = 0.9
    needs_target = True
    source_free = True
    needs_classes = True

    def losses(self, out: Forward) -> Tensor:
        return self.weight * F.cross_entropy(out.scores, out.scores.argmax(1), reduction="none")

    def counts(self, out: Forward) -> Tensor:
        return (out.batch.domain > 0) & (out.scores.detach().softmax(1).amax(1) >= self.sure)
