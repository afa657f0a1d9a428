"""Soft labels between silos: what all silos predict on average for rows of a class."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from fedtl._util.settings import Weight
from fedtl.methods.group_means import GroupMeans, class_groups, group_means
from fedtl.methods.losses import Forward, PerExample

Temperature = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class SoftPredictions(GroupMeans):
    """The mean of softmax(scores / ``temperature``) over rows of each class. A vector of probabilities is at most 1 long."""

    temperature: float
    name: str = "soft_labels"
    by_label = True

    def vectors(self, out: Forward) -> Tensor:
        return (out.scores / self.temperature).softmax(1)

    def numbers(self, features: int, width: int) -> int:
        return width


@dataclass(frozen=True)
class SoftLabels(PerExample):
    """
    Tzeng et al., 2015; Jeong et al., 2018: a row is also classified as the rows of its class are in all silos.

    The loss is -weight * sum_c l_c log softmax(scores / t)_c, with t the ``temperature`` and l the mean of softmax(scores / t) over
    all silos' rows of the row's class; 0 for a row without a label, for a class that no silo has, and in the first round.
    """

    weight: Weight = 1.0
    temperature: Temperature = 2.0
    needs_classes = True

    def summaries(self) -> tuple[SoftPredictions]:
        return (SoftPredictions(self.temperature),)

    def losses(self, out: Forward) -> Tensor:
        means = (
            group_means(out.summary("soft_labels"))[0].to(out.scores).clamp_min(0)
        )  # noise may make them negative
        labels = class_groups(out).to(out.scores) @ F.normalize(means, p=1, dim=1)
        return -self.weight * (labels * (out.scores / self.temperature).log_softmax(1)).sum(1)

    def counts(self, out: Forward) -> Tensor:
        present = group_means(out.summary("soft_labels"))[1] > 0
        return (class_groups(out) * present).sum(1) > 0
