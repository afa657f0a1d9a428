"""Minimum class confusion: on rows without labels, no two classes are likely together."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.entropy import entropies
from fedtl.methods.losses import Forward, PerBatch


@dataclass(frozen=True)
class MinimumClassConfusion(PerBatch):
    """
    Jin et al., 2020 (MCC): on rows without labels, no two classes are likely together.

    With Y [B, C] the probabilities of the scores divided by ``temperature``, W diagonal with the weights
    B (1 + exp(-H_i)) / sum_j (1 + exp(-H_j)) and H_i the entropy of row i, the confusion is Y^T W Y with its rows
    divided by their sums. The loss is weight / C times the sum of its entries off the diagonal; 0 without such rows.
    """

    weight: Weight = 1.0
    temperature: Annotated[float, Gt(0)] = 2.5
    needs_target = True
    source_free = True
    needs_classes = True

    def loss(self, out: Forward) -> Tensor:
        scores = out.scores[out.batch.domain > 0] / self.temperature
        if not len(scores):
            return out.scores.sum() * 0
        y = scores.softmax(1)
        sure = (1 + torch.exp(-entropies(scores))).detach()
        confusion = y.T @ (y * (len(y) * sure / sure.sum())[:, None])
        confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(1e-12)
        return self.weight * (confusion.sum() - confusion.trace()) / y.shape[1]
