"""Counts: how often something happens, such as visits or lesions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.tasks.base import LearningTask, Values
from fedtl.tasks.label_metrics import count_rmse


@dataclass(frozen=True)
class Counts(LearningTask):
    """
    Poisson regression with a log link: scores [N, 1] are logarithms of expected counts. The loss is the negative log-likelihood
    exp(s) - y s + log y!. Models are mixed by the mean of their expected counts. With ``data.scale = "silo"`` each silo trains on its
    counts divided by the mean count of its training rows, whose logarithm is added to the scores: gradients do not grow with the counts.
    """

    name = "counts"
    about = "a count; Poisson with a log link"
    metrics = ("d2", "deviance", "rmse", "loss")
    main = "d2"
    constant = "the mean count"
    own_figures = {"rmse": count_rmse}
    script = """\
HEADS = []

def averaged(out):  # expected counts
    return out.exp() * INPUTS["y_std"]

def answer(row):
    return [row[0]]
"""
    needs = "whole numbers from 0"
    relative = True

    def valid(self, y: Values) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(y) & (y >= 0) & (y == np.round(y)))

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        s, count = scores[:, 0], y.nan_to_num()
        return s.exp() - count * s + (count + 1).lgamma()

    def averaged(self, scores: Tensor) -> Tensor:
        return scores.exp()

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the logarithm of (sum of y + 1) / (n + 1), which is finite where all counts are 0."""
        return ((y.sum() + 1) / (len(y) + 1)).log().reshape(1)

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        return [{"prediction": value} for value in scores[:, 0].exp().tolist()]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 5, (count,), generator=generator).float()
