"""
Prototypical networks: the shared body is trained in episodes, and each silo's head is made of its own prototypes.

Laws: a batch without two classes of two rows each changes nothing; a head of prototypes answers as the nearest prototype does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import Count
from fedtl.methods.base import BACKBONE, HEAD, Finish, LabelledFeatures, Method, Phase, Site
from fedtl.methods.heads.base import class_means, square_distances
from fedtl.methods.heads.relation import RELATION, relation_module, relation_scores
from fedtl.methods.losses import Forward, PerBatch, TaskLoss
from fedtl.methods.ridge import head_names, is_linear
from fedtl.methods.sets import Sets
from fedtl.methods.tune import Tune
from fedtl.models.net import Shape
from fedtl.models.roles import Role
from fedtl.models.state import State

HEAD_EPOCHS = 20


@dataclass(frozen=True)
class Episode(PerBatch):
    """
    Snell et al., 2017: a batch is an episode. Of each class with two rows or more, the first half of its rows (at most
    ``shots``; 0: no limit) is the support, the rest are queries; the loss is the mean cross-entropy of -||q - m_c||^2 over
    queries. ``relation``: plus that of g([m_c; q]) (Sung et al., 2018; with their squared error of a sigmoid, g needs ten times as
    many steps), from features that this part does not change.
    """

    shots: Count = 0
    relation: bool = False
    needs_classes = True

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {RELATION: relation_module(features)} if self.relation else {}

    def loss(self, out: Forward) -> Tensor:
        support, queries = episode(out.features, out.batch.y, self.shots)
        width = int(support.y.max()) + 1 if len(support) else 0
        if width < 2:
            return out.features.sum() * 0
        means = class_means(support, width)
        loss = F.cross_entropy(-square_distances(queries.features, means), queries.y)
        if self.relation:
            scores = relation_scores(out.aux[RELATION], means.detach(), queries.features.detach())
            loss = loss + F.cross_entropy(scores, queries.y)
        return loss


def episode(features: Tensor, y: Tensor, shots: int) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Split the labelled rows of the classes with two rows or more into support and queries, and number these classes from 0."""
    numbers, y, counts = y.unique(return_inverse=True, return_counts=True)
    usable = (counts > 1) & (numbers >= 0)
    place = torch.tril(y[:, None] == y, -1).sum(1)  # of a row among those of its class
    limit = (counts // 2).clamp(max=shots) if shots else counts // 2
    first, kept = place < limit[y], usable[y]
    y = (usable.cumsum(0) - 1)[y]

    def part(rows: Tensor) -> LabelledFeatures:
        return LabelledFeatures(features[rows], y[rows])

    return part(kept & first), part(kept & ~first)


@dataclass(frozen=True)
class PrototypeHead(Finish):
    """
    Make the head of the silo's prototypes: -||f - m_c||^2 is 2 m_c^T f - ||m_c||^2 and a term that all classes share, so weight
    2 m_c and bias -||m_c||^2 of a linear head answer alike. A class without training rows is never answered. A head of
    another form is trained instead.
    """

    trained = HEAD

    def __call__(self, site: Site, state: State, sets: Sets) -> State:
        if not is_linear(state):
            return Tune("head", HEAD_EPOCHS, lr="train")(site, state, sets)
        weight, bias = head_names(state)
        train, width = site.features(state, "train"), len(state[bias])
        if not len(train):
            return state
        means = class_means(train, width)
        absent = torch.bincount(train.y, minlength=width) == 0
        lowest = (-means.pow(2).sum(1)).masked_fill(absent, -1e4)
        return state | {weight: (2 * means).to(state[weight]), bias: lowest.to(state[bias])}


def protonet(shots: Count = 0, relation: bool = False) -> Method:
    """
    Snell et al., 2017: the body is trained in episodes (each batch is one) and shared; a silo's head is its prototypes. With
    ``relation``, a relation network (Sung et al., 2018) is trained as well as it and shared, for silos that join later (fedtl onboard).
    """
    return Method(
        shared=BACKBONE - {Role.STATS},
        phases=(Phase(BACKBONE, objective=(Episode(shots, relation),)),),
        objective=(TaskLoss(),),
        finish=(PrototypeHead(),),
    )
