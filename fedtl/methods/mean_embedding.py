"""Mean embeddings of the rows of all silos: the distribution of their features as one bounded vector."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.methods.losses import Batch, Forward
from fedtl.methods.random_features import FEATURES, RandomFeatures, layer_output, paths
from fedtl.methods.summary import Summary

DOMAINS = 2  # rows with labels, and rows of a second domain or of a silo without labels


@dataclass(frozen=True)
class Embedding:
    """
    The random features of a row's outputs at some ``layers``: of each layer, side by side and divided by sqrt(layers), so that
    kernels are averaged; or with ``joint`` of all outputs as one vector, so that Gaussian kernels are multiplied. Length 1.
    """

    features: RandomFeatures
    layers: tuple[str, ...] = (FEATURES,)
    joint: bool = False

    def of(self, out: Forward) -> Tensor:
        """Return the vectors [B, numbers]."""
        outputs = [layer_output(out, layer) for layer in self.layers]
        if self.joint:
            return self.features.of(torch.cat(outputs, 1))
        return torch.cat([self.features.of(one) for one in outputs], 1) / math.sqrt(len(outputs))

    @property
    def numbers(self) -> int:
        """The length of a vector in numbers."""
        return 2 * self.features.frequencies * (1 if self.joint else len(self.layers))


@dataclass(frozen=True)
class MeanEmbedding(Summary):
    """
    Gretton et al., 2012; released with noise: DP-MERF (Harder et al., 2021). A row gives [phi, 1] / sqrt 2 at its domain and zeros at
    the other or, ``by_label``, at its class where it has one. Sums and counts of several silos add up, so the mean over all rows
    of a group is the ratio of the two, whichever silos have rows of it.

    ||phi|| = 1, so each vector is at most 1 long: one row changes the sum by at most 1.
    """

    name: str
    embedding: Embedding
    by_label: bool = False
    bound = 1.0

    @property
    def needs_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        return paths(self.embedding.layers)

    def rows(self, out: Forward) -> Tensor:
        groups = class_groups(out) if self.by_label else domain_groups(out.batch)
        return grouped(groups, self.embedding.of(out))

    def shape(self, features: int, width: int) -> tuple[int, ...]:
        return (width if self.by_label else DOMAINS, self.embedding.numbers + 1)


def domain_groups(batch: Batch) -> Tensor:
    """Return 1 at each row's domain [B, 2], and 0 elsewhere."""
    return F.one_hot((batch.domain > 0).long(), DOMAINS)


def class_groups(out: Forward) -> Tensor:
    """Return 1 at each row's class [B, classes], and 0 elsewhere; zeros for a row without a label."""
    known, width = out.batch.labelled, out.scores.shape[1]
    return F.one_hot(out.batch.y.where(known, 0).long(), width) * known[:, None]


def grouped(groups: Tensor, vectors: Tensor) -> Tensor:
    """Return [vector, 1] / sqrt 2 at the group of each row [B, groups, D + 1]; no longer than 1 where no vector is."""
    counted = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1) / math.sqrt(2)
    return groups[:, :, None].to(counted) * counted[:, None]


def group_means(summary: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the mean vector of each group [groups, D] of a received mean of ``grouped`` vectors, and the group's share of all rows
    [groups]; zeros for a group that nobody has, as before the first round.
    """
    share = summary[:, -1] * math.sqrt(2)
    present = share > RARE
    means = summary[:, :-1] * math.sqrt(2) / torch.where(present, share, 1)[:, None]
    return torch.where(present[:, None], means, 0), torch.where(present, share, 0)


RARE = 1e-4  # a share of rows below which a group counts as absent
