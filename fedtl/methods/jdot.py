"""Joint distribution optimal transport at a silo without labels, to the mean features of each class of all silos."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.group_means import RARE, GroupMeans, group_means, predicted_classes
from fedtl.methods.losses import Forward, PerBatch
from fedtl.methods.random_features import unit


@dataclass(frozen=True)
class ClassFeatures(GroupMeans):
    """The mean of the features over rows of each class; those of a row have length 1."""

    name: str = "class_features"
    by_label = True

    def vectors(self, out: Forward) -> Tensor:
        return unit(out.features)

    def numbers(self, features: int, width: int) -> int:
        return features


@dataclass(frozen=True)
class JointTransport(PerBatch):
    """
    Courty et al., 2017 (JDOT); Damodaran et al., 2018: optimal transport of rows without labels to the mean features of classes.

    The loss is weight * the sum over rows i without a label and classes c of G_ic (||z_i - m_c||^2 + labels * CE(scores_i, c)), with z
    a row's features and m_c the mean features of all silos' rows of the class, both at most 1 long. The plan G, constant in the
    gradient, minimises it over all plans whose rows sum to 1/B and whose columns sum to the classes' shares of all labelled
    rows, with ``entropy`` as the strength of a penalty (``sinkhorn``). ``partial`` (after PADA: Cao et al., 2018), where the silo does
    not have all classes: each share times the mean probability of the class that the rows predict. In the first round the loss is 0.
    """

    weight: Weight = 0.1
    labels: Weight = 1.0
    entropy: Annotated[float, Gt(0)] = 0.05
    iterations: Annotated[int, Ge(1), Le(10_000)] = 50
    partial: bool = False
    needs_target = True
    needs_classes = True
    source_free = True

    def summaries(self) -> tuple[ClassFeatures]:
        return (ClassFeatures(),)

    def loss(self, out: Forward) -> Tensor:
        means, share = group_means(out.summary("class_features"))
        target, present = out.batch.domain > 0, share > 0
        if not target.any() or not present.any():
            return out.features.sum() * 0
        features, scores = unit(out.features[target]), out.scores[target]
        apart = (features[:, None] - means[present].to(features)).pow(2).sum(2)
        cost = apart - self.labels * F.log_softmax(scores, 1)[:, present]
        shares = share[present].to(cost)
        if self.partial:
            shares = shares * predicted_classes(out)[present].clamp_min(RARE)
        shares = shares / shares.sum()
        plan = sinkhorn(cost.detach(), shares, self.entropy, self.iterations)
        return self.weight * (plan * cost).sum()


def sinkhorn(cost: Tensor, columns: Tensor, entropy: float, iterations: int) -> Tensor:
    """
    Return the plan [N, C] that minimises sum G cost + entropy * sum G log G over all G whose rows sum to 1/N and whose columns
    sum to ``columns`` (Cuturi, 2013), by turns in logarithms, ending with the rows.
    """
    log_kernel, rows = -cost / entropy, cost.new_full((len(cost),), 1 / len(cost)).log()
    along, across = torch.zeros_like(rows), torch.zeros_like(columns)
    for _ in range(iterations):
        across = columns.log() - (log_kernel + along[:, None]).logsumexp(0)
        along = rows - (log_kernel + across).logsumexp(1)
    return (log_kernel + along[:, None] + across).exp()
