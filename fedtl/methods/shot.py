"""SHOT: after the last round a silo without labels fits the body to its rows, and keeps the head of the others."""

from dataclasses import dataclass, replace
from math import cos, pi

from fedtl._util.settings import Count, Weight
from fedtl.methods.base import BACKBONE, Finish, Method, Phase, Site
from fedtl.methods.infomax import InformationMaximisation
from fedtl.methods.losses import Term
from fedtl.methods.sets import Sets
from fedtl.methods.sharing import silobn
from fedtl.models.roles import Role
from fedtl.models.state import State, first_not_finite

FIRST_RATE = 0.5  # times the learning rate of [train], as in tuning


@dataclass(frozen=True)
class FitBody(Finish):
    """
    Train the body of the shared model on losses that need no labels, at a silo that has none, for ``epochs``. Epoch k of E has
    the learning rate FIRST_RATE lr (1 + cos(pi k / E)) / 2, for k = 0..E-1. Without labels no epoch can be chosen: the last
    one that is finite is used.
    """

    objective: tuple[Term, ...] = (InformationMaximisation(),)
    epochs: Count = 10
    trained: frozenset[Role] = BACKBONE
    at = "unlabelled"

    def __call__(self, site: Site, state: State, sets: Sets) -> State:
        phase = Phase(BACKBONE, 1, self.objective)
        state = site.adapted(state, BACKBONE)
        for epoch in range(self.epochs):
            rate = FIRST_RATE * site.lr * (1 + cos(pi * epoch / self.epochs)) / 2
            moved = site.train(state, phase, rate, epoch)
            if first_not_finite(moved):
                break
            state = moved
        return site.adapted(state, BACKBONE)


def shot(epochs: Count = 10, diversity: Weight = 1.0) -> Method:
    """
    Liang et al., 2020 (SHOT): silos with labels train a shared model; each silo without fits the body to its rows by
    information maximisation after the last round, with the shared head.

    The loss is that of the term ``infomax`` with weight 1 and ``diversity``.
    """
    return replace(silobn(), finish=(FitBody((InformationMaximisation(1.0, diversity),), epochs),))
