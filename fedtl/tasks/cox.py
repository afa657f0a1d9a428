"""Survival by proportional hazards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.tasks.survival import EVENT, TIME, TimeToEvent
from fedtl.tasks.survival_metrics import cox_loss


@dataclass(frozen=True)
class Cox(TimeToEvent):
    """
    The partial likelihood of Cox (1972), with Breslow's risk sets where times are tied: a score [N, 1] is the logarithm of the hazard
    relative to others. An event in row i adds log(sum over rows j with time_j >= time_i of exp(s_j)) - s_i; the risk set is that of
    the batch, so the loss of a row depends on other rows, and no example's gradient can be clipped. Models are mixed by the
    mean of their scores. There is no baseline hazard: scores rank rows and are no probabilities.
    """

    name = "cox"
    about = "time (data.label) until data.event; Cox's partial likelihood of a batch"
    metrics = ("concordance", "loss")
    script = """\
HEADS = []

def averaged(out):  # logarithms of relative hazards
    return out

def answer(row):
    return [row[0]]
"""
    constant = "equal risks"
    own_figures = {"loss": cox_loss}
    per_example = False

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        risk, event = scores[:, 0], y[:, EVENT] == 1
        time = y[:, TIME].nan_to_num(nan=-torch.inf)  # a row without a label is in no risk set of an event
        later = -time
        order = later.argsort()
        sums = risk[order].logcumsumexp(0)
        last = torch.searchsorted(later[order], later, right=True) - 1  # the last row with the same time
        return (sums[last] - risk) * event

    def averaged(self, scores: Tensor) -> Tensor:
        return scores

    def scores_of(self, average: Tensor) -> Tensor:
        return average

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        return torch.zeros(1)

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        return [{"prediction": value} for value in scores[:, 0].tolist()]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        time = torch.rand(count, generator=generator) + 1e-3
        return torch.stack([time, (torch.arange(count) % 2).float()], 1)
