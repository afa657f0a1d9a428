"""
KD3A: at a silo without labels the models of the silos with labels vote on each row, and the mean of all models follows
those that the others agree with.

Law: where no model is ever sure, and with ``share_by`` "rows", it is FedAvg.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedtl._util.settings import Fraction, Weight
from fedtl.methods.base import Method
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.group_means import GroupMeans
from fedtl.methods.losses import Batch, Forward, PerExample
from fedtl.methods.mean_embedding import Embedding, MeanEmbedding
from fedtl.methods.random_features import RandomFeatures
from fedtl.methods.sets import RECEIVED
from fedtl.methods.source_models import (
    KeepSources,
    Source,
    Sources,
    source_names,
    source_slots,
    summary_groups,
)
from fedtl.methods.summary import Summary
from fedtl.models.state import State

QUALITY, NEARNESS = "vote_quality", "source_nearness"
ShareBy = Literal["agreement", "discrepancy", "rows"]


def vote(probabilities: Tensor, sure: float) -> tuple[Tensor, Tensor]:
    """
    Return the knowledge vote of models (Feng et al., 2021) on rows: ``probabilities`` [models, B, classes] give the answer
    [B, classes], and how many models support it [B].

    Of the models whose largest probability is at least ``sure``, those support the class with the largest sum whose own answer
    it is; the answer is the mean of their probabilities, and zeros where no model is sure. A model of zeros has no vote.
    """
    most = probabilities.amax(2)
    confident = (most >= sure) & (most > 0)
    winner = (probabilities * confident[:, :, None]).sum(0).argmax(1)
    supports = confident & (probabilities.argmax(2) == winner)
    count = supports.sum(0)
    return (probabilities * supports[:, :, None]).sum(0) / count.clamp_min(1)[:, None], count


def quality(probabilities: Tensor, sure: float) -> Tensor:
    """Return how good the vote is [B], from 0 to the number of models: how many support it, times its largest probability."""
    answer, count = vote(probabilities, sure)
    return count * answer.amax(1)


def _source_probabilities(out: Forward, sources: int) -> Tensor:
    """
    Return the probabilities of each source model for the rows without labels [sources, rows, classes], constant; zeros of a slot that no
    silo has filled: it holds the received mean, which is not another opinion.
    """
    batch, rows = out.batch, out.batch.domain > 0
    rows_only = Batch(batch.x[rows], batch.y[rows], batch.domain[rows])
    names = (RECEIVED, *source_names(sources))
    mean, *models = (replace(out.by(name), batch=rows_only).scores.detach() for name in names)
    return torch.stack([one.softmax(1) * (one != mean).any() for one in models])


@dataclass(frozen=True)
class VoteQuality(GroupMeans):
    """Of a row without a label, the quality of the vote of all source models, and of all but each of them; at most 1 long."""

    sources: int
    sure: float
    name: str = QUALITY

    def vectors(self, out: Forward) -> Tensor:
        target, scale = out.batch.domain > 0, self.sources * math.sqrt(self.sources + 1)
        vectors = out.batch.domain.new_zeros((len(target), self.sources + 1))
        if target.any():
            models = _source_probabilities(out, self.sources)
            others = [torch.arange(self.sources) != number for number in range(self.sources)]
            kinds = [models, *(models[kept] for kept in others)]
            vectors[target] = torch.stack([quality(one, self.sure) for one in kinds], 1).to(vectors) / scale
        return vectors

    def numbers(self, features: int, width: int) -> int:
        return self.sources + 1


@dataclass(frozen=True)
class KnowledgeVote(PerExample):
    """
    Feng et al., 2021 (KD3A): rows without labels are trained on the vote of the models of the silos with labels.

    The loss of such a row is -weight * n / K * sum_c v_c log softmax(scores)_c, with v the answer of the ``vote`` of the K models that were
    received and n how many of them support it. Before the first models are received, no model votes.
    """

    sources: int
    sure: float
    weight: float
    needs_target = True
    needs_classes = True
    source_free = True

    def losses(self, out: Forward) -> Tensor:
        target, losses = self.counts(out), out.scores.sum(1) * 0
        if not target.any():
            return losses
        models = _source_probabilities(out, self.sources)
        answer, count = vote(models, self.sure)
        voters = models.any(2).any(1).sum().clamp_min(1)
        values = -(answer * out.scores[target].log_softmax(1)).sum(1) * count / voters
        return losses.masked_scatter(target, self.weight * values.to(losses))

    def counts(self, out: Forward) -> Tensor:
        return out.batch.domain > 0


def by_agreement(found: Sequence[Source], averaged: State) -> list[float]:
    """
    Return the consensus focus of each source: the quality of the vote of all models minus that of all but its own (Feng et al.,
    2021), from the mean over rows without labels.
    """
    qualities = summary_groups(averaged, QUALITY)[0][1]
    return [float(qualities[0] - qualities[1 + one.number]) for one in found]


def by_discrepancy(found: Sequence[Source], averaged: State) -> list[float]:
    """
    Return exp(-d / mean d) of each source (after DCTN: Xu et al., 2018, whose discrepancy is a discriminator's), with d the
    squared distance between the mean embeddings of its labelled rows and of all rows without labels; 1 without such rows.
    """
    (_, target), (_, present) = summary_groups(averaged, NEARNESS)
    if not present > 0:
        return [1.0] * len(found)
    apart = torch.stack(
        [(summary_groups(one.summaries, NEARNESS)[0][0] - target).pow(2).sum() for one in found]
    )
    return (-apart / apart.mean().clamp_min(1e-12)).exp().tolist()


def kd3a(
    sources: Sources = 6, sure: Fraction = 0.9, weight: Weight = 1.0, share_by: ShareBy = "agreement"
) -> Method:
    """
    Feng et al., 2021 (KD3A): silos without labels learn what the models of the others vote for, and the mean follows those models
    that the vote needs, or whose rows are nearest (DCTN: Xu et al., 2018). ``sources``: silos with labels, at most; all their models cross.
    The mean is one for all silos: its shares follow from the rows of all silos without labels together.
    """
    tells = VoteQuality(sources, sure)
    by: dict[str, tuple[KeepSources, tuple[Summary, ...]]] = {
        "rows": (KeepSources(sources, QUALITY), ()),
        "agreement": (KeepSources(sources, QUALITY, by_agreement), ()),
        "discrepancy": (
            KeepSources(sources, QUALITY, by_discrepancy),
            (MeanEmbedding(NEARNESS, Embedding(RandomFeatures())),),
        ),
    }
    server, further = by[share_by]
    method = Method(
        slots=source_slots(sources),
        summaries=(tells, *further),
        server=server,
        exact_statistics=ExactStatistics.ALWAYS,
    )
    return method.plus(KnowledgeVote(sources, sure, weight))
