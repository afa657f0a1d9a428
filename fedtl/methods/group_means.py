"""Means of bounded vectors over all silos' rows of one domain or of one class, as summaries that cross."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.errors import ConfigError
from fedtl.methods.losses import Batch, Forward
from fedtl.methods.summary import MAX_NUMBERS, Summary

DOMAINS = 2  # rows with labels, and rows of a second domain or whose labels are not used
RARE = 1e-4  # a share of rows below which a group counts as absent


class GroupMeans(Summary):
    """
    A row gives [v, 1] / sqrt 2, with v a vector of length at most 1, at its domain and zeros at the other; or, ``by_label``, at
    its class, where it has one. Sums and counts of several silos add up, so the mean of v over all rows of a group is the ratio
    of the two, whichever silos have rows of it.

    ||[v, 1]||^2 <= 2, so a row changes the sum by at most 1.
    """

    bound = 1.0

    @abstractmethod
    def vectors(self, out: Forward) -> Tensor:
        """Return v [B, D]; no row is longer than 1."""

    @abstractmethod
    def numbers(self, features: int, width: int) -> int:
        """Return D. ``features``: those of the model; ``width``: the outputs of its head."""

    def rows(self, out: Forward) -> Tensor:
        groups = class_groups(out) if self.by_label else domain_groups(out.batch)
        vectors = self.vectors(out)
        counted = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1) / math.sqrt(2)
        return groups[:, :, None].to(counted) * counted[:, None]

    def shape(self, features: int, width: int) -> tuple[int, ...]:
        groups, numbers = width if self.by_label else DOMAINS, self.numbers(features, width) + 1
        if groups * numbers > MAX_NUMBERS:
            raise ConfigError(
                f"the summary {self.name!r} has {groups * numbers} numbers, and at most {MAX_NUMBERS} may leave; lower its settings, "
                "such as frequencies or dims"
            )
        return (groups, numbers)


def domain_groups(batch: Batch) -> Tensor:
    """Return 1 at each row's domain [B, 2], and 0 elsewhere."""
    return F.one_hot((batch.domain > 0).long(), DOMAINS)


def class_groups(out: Forward) -> Tensor:
    """Return 1 at each row's class [B, classes], and 0 elsewhere; zeros for a row without a label."""
    known, width = out.batch.labelled, out.scores.shape[1]
    return F.one_hot(out.batch.y.where(known, 0).long(), width) * known[:, None]


def predicted_classes(out: Forward) -> Tensor:
    """Return the mean predicted probabilities of the batch's rows without labels [classes], constant; zeros without such rows."""
    target = out.batch.domain > 0
    return (out.scores.detach().softmax(1) * target[:, None]).sum(0) / target.sum().clamp_min(1)


def group_means(summary: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the mean vector of each group [groups, D] of a received mean of ``GroupMeans``, and the group's share of all rows
    [groups]; zeros for a group that no silo has, as before the first round.
    """
    share = summary[:, -1] * math.sqrt(2)
    present = share > RARE
    means = summary[:, :-1] * math.sqrt(2) / torch.where(present, share, 1)[:, None]
    return torch.where(present[:, None], means, 0), torch.where(present, share, 0)
