"""
FedMD: what crosses is not weights but each model's scores on public inputs, so the silos' models may be of different kinds.

Law: with 0 epochs of digestion every silo trains as if alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedtl._util.settings import Count, Positive
from fedtl.messages import Update
from fedtl.methods.base import Memory, Method, Phase
from fedtl.methods.losses import Forward
from fedtl.methods.sets import SUMMARY
from fedtl.methods.summary import Summary
from fedtl.methods.teacher import FollowTeacher
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.state import State

ANSWERS = "answers"
Weighting = Literal["equal", "agreement"]


class PublicScores(Summary):
    """The scores of a silo's model on each public input, in evaluation mode."""

    name = ANSWERS
    bound = float("inf")
    by_label = True  # all silos number their labels alike
    exact_statistics = True
    on_public = True

    def rows(self, out: Forward) -> Tensor:
        return out.scores

    def shape(self, features: int, width: int) -> tuple[int, ...]:
        return (width,)


@dataclass(frozen=True)
class MeanAnswers:
    """
    The server's step: the mean over silos of their scores on each public input i, sum_k w_ki a_ki. ``weighting`` "equal": w_ki =
    1/K; "agreement": w_ki is the share of <p_ki, mean over j of p_ji>, with p = softmax(a), in their sum over k.
    """

    weighting: Weighting = "equal"

    def __call__(
        self, shared: State, updates: Iterable[Update], roles: Mapping[str, Role], memory: Memory
    ) -> tuple[State, Memory]:
        name = f"{SUMMARY}/{ANSWERS}"
        answers = torch.stack([(shared[name] + update.delta[name]).double() for update in updates])
        weights = answers.new_ones(answers.shape[:2])
        if self.weighting == "agreement":
            shares = answers.softmax(2)
            weights = (shares * shares.mean(0)).sum(2)
        weights = weights / weights.sum(0)
        return {name: (weights[:, :, None] * answers).sum(0).float()}, memory


def fedmd(digest_epochs: Count = 1, temperature: Positive = 1.0, weighting: Weighting = "equal") -> Method:
    """
    Li and Wang, 2019 (FedMD): no weight leaves; silos send their models' scores on public inputs (data.public) and first train
    towards the mean of all, then on their own rows. Models may differ: [silo.<name>.model].
    """
    digest = Phase(
        EVERYTHING - {Role.STATS}, digest_epochs, (FollowTeacher(ANSWERS, temperature),), public=True
    )
    return Method(
        shared=frozenset(),
        phases=(digest, Phase()),
        summaries=(PublicScores(),),
        server=MeanAnswers(weighting),
    )
