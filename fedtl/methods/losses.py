"""
What a silo minimises: a sum of terms.

A term is one of three kinds, and the kind decides what may be done with it:

- PerExample: one value an example. Private training clips these, and a membership attack reads these.
- PerBatch: examples meet inside it (CORAL, MMD). No per-example gradient exists, so it cannot be trained with
  record-level privacy.
- OnWeights: it sees no data, so it costs no privacy. It acts on the gradient after it was taken, where
  per-example clipping cannot drop it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.labels import NO_LABEL
from fedtl._util.settings import Weight
from fedtl.models.state import State


@dataclass(frozen=True)
class Batch:
    """
    ``x`` [B, ...]; ``y`` [B], class numbers (int64, -1 without a label) or values (float32, NaN without one);
    ``domain`` [B], 0 for a silo's labelled rows and 1 for those of its second domain, which have no label.
    """

    x: Tensor
    y: Tensor
    domain: Tensor

    @property
    def labelled(self) -> Tensor:
        return ~self.y.isnan() if self.y.is_floating_point() else self.y != NO_LABEL


@dataclass(frozen=True)
class Forward:
    """One pass of the model over one batch; ``progress`` runs from 0 to 1 over the whole experiment."""

    batch: Batch
    features: Tensor  # [B, D]
    scores: Tensor  # [B, classes] or, for regression, [B, 1]
    aux: nn.ModuleDict
    progress: float


class Loss:
    """What every loss on examples may say of itself."""

    needs_target = False

    def modules(self, features: int) -> dict[str, nn.Module]:
        """Return the modules that the loss adds to the model, by name; their tensors have the role AUX."""
        return {}


class PerExample(Loss, ABC):
    """A loss that each example has by itself."""

    @abstractmethod
    def losses(self, out: Forward) -> Tensor:
        """[B]; what ``counts`` leaves out is ignored."""

    def counts(self, out: Forward) -> Tensor:
        """[B] of bool: the examples that this term is about."""
        return out.batch.domain >= 0


def mean_loss(term: PerExample, out: Forward) -> Tensor:
    """A term's mean over the examples that it is about; 0 where there are none."""
    counts = term.counts(out)
    return torch.where(counts, term.losses(out), 0.0).sum() / counts.sum().clamp_min(1)


class PerBatch(Loss, ABC):
    """A loss in which examples meet."""

    @abstractmethod
    def loss(self, out: Forward) -> Tensor:
        """A scalar."""


class OnWeights(ABC):
    """A loss on the weights alone."""

    @abstractmethod
    def gradient(self, name: str, weight: Tensor, received: State) -> Tensor | None:
        """The gradient at ``weight``, or None where the term does not act."""


Term = PerExample | PerBatch | OnWeights


@dataclass(frozen=True)
class TaskLoss(PerExample):
    """The task's own loss: cross-entropy for class numbers, squared error (halved) for values."""

    def losses(self, out: Forward) -> Tensor:
        y = out.batch.y
        if y.is_floating_point():
            return 0.5 * (out.scores[:, 0] - y.nan_to_num()).pow(2)
        return F.cross_entropy(out.scores, y, ignore_index=NO_LABEL, reduction="none")

    def counts(self, out: Forward) -> Tensor:
        return out.batch.labelled


@dataclass(frozen=True)
class Proximal(OnWeights):
    """FedProx (Li et al., 2020): mu/2 ||w - w_received||^2, so the gradient is mu (w - w_received)."""

    mu: Weight = 0.01

    def gradient(self, name: str, weight: Tensor, received: State) -> Tensor | None:
        return self.mu * (weight - received[name]) if name in received else None
