"""Tuning at home: after the last round a silo trains its model on its own rows, with a falling learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from fedtl._util.settings import Count
from fedtl.methods.base import HEAD, Finish, Phase, Site
from fedtl.methods.losses import TaskLoss
from fedtl.methods.ridge import RidgeHead, is_linear
from fedtl.methods.sets import Sets
from fedtl.methods.teacher import TEACHER, FollowTeacher, taught_by
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.state import State, first_not_finite

What = Literal["all", "head", "norm"]
TUNED_ROLES: dict[What, frozenset[Role]] = {
    "all": EVERYTHING,
    "head": HEAD,
    "norm": frozenset({Role.NORM, Role.STATS}),
}
FIRST_RATE = 0.5  # where lr is "auto": times the learning rate of [train]


@dataclass(frozen=True)
class Tune(Finish):
    """
    Train everything, the head, or the normalisation layers on the silo's own rows for at most ``epochs``.

    ``lr``: of the first epoch; "auto": half of ``train.lr``; "train": ``train.lr``. With the schedule "cosine" epoch k of E has the rate
    lr (1 + cos(pi k / E)) / 2, for k = 0..E-1. Statistics are fitted exactly after each epoch.

    ``ridge_head``: where the head is trained and is one linear layer, it is first fitted in closed form (``methods.ridge``), if
    that lowers the loss on validation rows: a head that lags behind its body would disturb it. Of tasks other than classification
    and regression it stays as it is.

    ``unfreeze``: "gradual" trains the head alone in the first epoch, and one more stage of the body in each that follows, the
    last stage first (Howard and Ruder, 2018).

    The silo uses the model after the epoch that its validation rows choose (``epochs_to_keep``; without them
    ``last_that_learned``), or the one before tuning.

    ``generations``: that often it is then tuned again, from the same received model, on its labels and on the scores of the model
    before it (Furlanello et al., 2018, born-again networks; theirs start from random weights). The loss is the task's plus the KL
    divergence from the teacher. The silo uses the last generation, unless an earlier one is clearly better, as for epochs.
    """

    any_task = True
    what: What = "all"
    epochs: Count = 10
    lr: float | Literal["auto", "train"] = "auto"
    schedule: Literal["cosine", "constant"] = "cosine"
    ridge_head: bool = True
    unfreeze: Literal["at once", "gradual"] = "at once"
    generations: Count = 0

    @property
    def trained(self) -> frozenset[Role]:  # type: ignore[override]
        return TUNED_ROLES[self.what] if self.epochs else frozenset()

    def rate(self, epoch: int, train_lr: float) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        shares = {"auto": FIRST_RATE, "train": 1.0}
        first = train_lr * shares[self.lr] if isinstance(self.lr, str) else self.lr
        return first * (1 + cos(pi * epoch / self.epochs)) / 2 if self.schedule == "cosine" else first

    def __call__(self, site: Site, state: State, sets: Sets) -> State:
        models = [self._tuned(site, state, sets, 0, {})]
        for generation in range(1, self.generations + 1 if self.epochs else 1):
            teacher = taught_by(site.scores(models[-1]))
            models.append(self._tuned(site, state, sets, generation, teacher))
        return models[0] if len(models) == 1 else kept_of(site, models, (site.adapted(state, self.trained),))

    def _tuned(self, site: Site, state: State, sets: Sets, generation: int, teacher: State) -> State:
        """Return the model of a generation. ``teacher``: what is added to a state for its teacher; {}: it has none."""
        objective = (TaskLoss(), FollowTeacher(TEACHER)) if teacher else None
        state = site.adapted(state, self.trained)
        if self.ridge_head and Role.HEAD in self.trained and is_linear(state) and len(site.losses(state)):
            state = RidgeHead(keep_better=True)(site, state, sets)
        states = [state]
        for epoch in range(self.epochs):
            phase = Phase(self.trained, 1, objective, unfrozen=epoch if self.unfreeze == "gradual" else None)
            number = generation * self.epochs + epoch
            state = site.train(state | teacher, phase, self.rate(epoch, site.lr), number)
            if first_not_finite(state):  # the rate was too high; what was before it is still good
                break
            states.append(site.adapted(state, self.trained))
        return kept_of(site, states)


def kept_of(site: Site, states: Sequence[State], before: Sequence[State] = ()) -> State:
    """
    Return the state that the silo's validation rows choose of those after 0, 1, ... epochs, or of generations. ``before``: what the
    generations began with, which their training loss is compared with where validation rows cannot choose.
    """
    losses = torch.stack([site.losses(one) for one in states])
    if losses.shape[1] < 2 or not bool(losses.isfinite().all()):
        return last_that_learned(site, [*before, *states])
    return states[epochs_to_keep(losses)]


def last_that_learned(site: Site, states: Sequence[State]) -> State:
    """
    Return the last of the states after 0, 1, ... epochs that has no larger mean loss on training rows than the first: where
    validation rows cannot say so, a larger one shows that the rate was too high. The norms of a private run do so at rates
    that batch statistics would bear.
    """
    before = site.losses(states[0], "train")
    if not len(before):
        return states[-1]
    learned = (state for state in reversed(states[1:]) if site.losses(state, "train").mean() <= before.mean())
    return next(learned, states[0])


def epochs_to_keep(losses: Tensor) -> int:
    """
    Return how many epochs of tuning to keep. ``losses``: after 0, 1, ... epochs, on each of at least two validation rows
    [epochs + 1, N].

    All of them, unless fewer are better by more than one standard error of the mean of the paired differences: then the
    largest number that is within one standard error of the best one (the one-standard-error rule of Breiman et al., 1984, with
    the whole schedule in the place of the simplest model).
    """
    table, rows = losses.double(), losses.shape[1]
    worse = table - table[table.mean(1).argmin()]
    near = worse.mean(1) <= worse.std(1) / rows**0.5
    return int(near.nonzero().max())
