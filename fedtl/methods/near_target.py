"""Rows of silos with labels count more where they are like the rows of silos without."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.methods.group_means import group_means
from fedtl.methods.losses import Forward, PerExample, TaskLoss
from fedtl.methods.mean_embedding import Embedding, MeanEmbedding
from fedtl.methods.random_features import RandomFeatureSettings

MOST = 10.0  # times the mean weight


@dataclass(frozen=True)
class NearTarget(RandomFeatureSettings, PerExample):
    """
    Ge and Yu, 2017 (selective joint fine-tuning); Huang et al., 2007: labelled rows like those without labels count more.

    The loss is weight * w times the task's, with w = phi . m' / (m . m'), at least 0 and at most MOST: phi is the row's random features,
    constant in the gradient, m the mean of them over all labelled rows and m' over all rows without labels. The mean of w
    over labelled rows is 1, and over those of one silo the larger, the less the silo's distribution differs from that of the
    rows without labels: a silo's share of the training follows from its discrepancy. In the first round it is 0.
    """

    needs_target = True
    source_free = True

    @property
    def embedding(self) -> Embedding:
        return Embedding(self.random_features)

    def summaries(self) -> tuple[MeanEmbedding]:
        return (MeanEmbedding("nearness", self.embedding),)

    def losses(self, out: Forward) -> Tensor:
        means, share = group_means(out.summary("nearness").to(out.features))
        nearness = self.embedding.of(out).detach() @ means[1]
        typical = means[0] @ means[1]
        ratio = (nearness / torch.where(typical > 1e-6, typical, 1)).clamp(0, MOST)
        return self.weight * ratio.where(share.min() > 0, 0) * TaskLoss().losses(out)

    def counts(self, out: Forward) -> Tensor:
        return out.batch.labelled
