"""Regression: one value, which each silo standardises for training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.tasks.base import LearningTask


@dataclass(frozen=True)
class Regression(LearningTask):
    """Half the squared error; scores [N, 1] are values, in the label's own unit where they are measured."""

    name = "regression"
    about = "one value; half the squared error"
    metrics = ("r2", "rmse", "loss")
    main = "r2"
    curve = "rmse"
    constant = "the mean"
    needs = "finite numbers"
    script = """\
HEADS = []

def averaged(out):
    return out * INPUTS["y_std"] + INPUTS["y_mean"]

def answer(row):
    return [row[0]]
"""
    standardised = True
    least_squares = True

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (scores[:, 0] - y.nan_to_num()).pow(2)

    def averaged(self, scores: Tensor) -> Tensor:
        return scores

    def scores_of(self, average: Tensor) -> Tensor:
        return average

    def mixed(self, parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        return torch.stack([part * weight for part, weight in zip(parts, weights, strict=True)]).sum(0)

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the mean of the labels."""
        return y.mean().reshape(1)

    def quick(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        loss = float((scores[:, 0] - y).pow(2).mean())
        return {"loss": loss / 2, "rmse": loss**0.5}

    def figures(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Return R^2, RMSE in the label's unit and half the mean squared error."""
        from sklearn import metrics

        predicted, true = scores[:, 0].double().numpy(), y.double().numpy()
        error = float(metrics.mean_squared_error(true, predicted))
        values = {"rmse": error**0.5, "loss": error / 2}
        return (
            {"r2": float(metrics.r2_score(true, predicted)), **values} if (true != true[0]).any() else values
        )

    def why_undefined(self, metric: str, scores: Tensor, y: Tensor) -> str:
        return "there is only one row" if len(y) == 1 else f"all {len(y)} rows have the same value"

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        return [{"prediction": value} for value in scores[:, 0].tolist()]


REGRESSION = Regression()
