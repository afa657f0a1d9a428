"""Entropy minimisation: a model should be sure of its answers to rows without labels."""

from dataclasses import dataclass

from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.losses import Forward, PerExample


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each row's probabilities [B], in nats: H(p) = -sum_c p_c log p_c."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


@dataclass(frozen=True)
class Entropy(PerExample):
    """
    Grandvalet and Bengio, 2005: sure answers to rows without labels.

    The loss of a row without label is weight * H(p), with p the model's probabilities. Alone it can end with one class for
    all rows; ``infomax`` prevents that.
    """

    weight: Weight = 0.1
    needs_target = True
    source_free = True
    needs_classes = True

    def losses(self, out: Forward) -> Tensor:
        return self.weight * entropies(out.scores)

    def counts(self, out: Forward) -> Tensor:
        return out.batch.domain > 0
