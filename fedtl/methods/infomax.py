"""Information maximisation: sure answers to rows without labels that differ from row to row."""

from dataclasses import dataclass

from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.entropy import entropies
from fedtl.methods.losses import Forward, PerBatch


@dataclass(frozen=True)
class InformationMaximisation(PerBatch):
    """
    Liang et al., 2020 (SHOT): sure answers to rows without labels that differ from row to row.

    The loss is weight * (mean_i H(p_i) - diversity * H(mean_i p_i)), with p_i the probabilities of row i of the B rows without
    label in the batch and H the entropy; 0 where there are none.
    """

    weight: Weight = 1.0
    diversity: Weight = 1.0
    needs_target = True
    source_free = True
    needs_classes = True

    def loss(self, out: Forward) -> Tensor:
        scores = out.scores[out.batch.domain > 0]
        if not len(scores):
            return out.scores.sum() * 0
        mean = scores.softmax(1).mean(0, keepdim=True)
        spread = entropies(mean.clamp_min(1e-12).log())[0]
        return self.weight * (entropies(scores).mean() - self.diversity * spread)
