"""
Metrics of a model on rows that it was not trained on, as scikit-learn defines them, and which direction is better.

``scores`` are a model's raw outputs: [N, classes], or [N, 1] in the label's own unit for regression.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.results.metrics import Measured, WorstSilo

LOWER_IS_BETTER = frozenset({"loss", "rmse"})
CLASSIFICATION = ("accuracy", "balanced_accuracy", "auc", "loss")
REGRESSION = ("r2", "rmse", "loss")


def measure(scores: Tensor, y: Tensor) -> Measured:
    """
    Return every metric that is defined for these rows, and why the others are not.

    Classification (y: class numbers): accuracy; balanced accuracy, the mean recall over the classes that occur, of which it
    needs two; AUC for models of two classes; cross-entropy in nats. Regression (y: values, and scores of one column): R^2,
    RMSE in the label's unit, mean squared error / 2.
    """
    scores, y = _labelled(scores, y)
    names = REGRESSION if y.is_floating_point() else CLASSIFICATION  # the dtype of y follows from the task
    if not len(y):
        return Measured({}, dict.fromkeys(names, "there are no rows"))
    if broken := int((~torch.isfinite(scores)).any(1).sum()):
        return Measured({}, dict.fromkeys(names, f"the scores of {broken} of {len(y)} rows are not finite"))
    values = _regression_metrics(scores, y) if names is REGRESSION else _class_metrics(scores, y)
    too_large = {name: "too large for a number" for name, value in values.items() if not np.isfinite(value)}
    figures = {name: value for name, value in values.items() if name not in too_large}
    undefined = {name: _why_undefined(name, scores, y) for name in names if name not in values}
    return Measured(figures, too_large | undefined)


def _regression_metrics(scores: Tensor, y: Tensor) -> dict[str, float]:
    from sklearn import metrics

    predicted, true = scores[:, 0].double().numpy(), y.double().numpy()
    error = float(metrics.mean_squared_error(true, predicted))
    values = {"rmse": error**0.5, "loss": error / 2}
    return {"r2": float(metrics.r2_score(true, predicted)), **values} if (true != true[0]).any() else values


def _class_metrics(scores: Tensor, y: Tensor) -> dict[str, float]:
    from sklearn import metrics

    predicted, labels = scores.argmax(1).numpy(), y.numpy()
    present = np.unique(labels)
    values = {"accuracy": float(correct(scores, y).double().mean())}
    if len(present) > 1:
        recall = metrics.recall_score(labels, predicted, labels=present, average="macro")
        values["balanced_accuracy"] = float(recall)
        if scores.shape[1] == 2:
            values["auc"] = float(metrics.roc_auc_score(labels, margin(scores)))
    return values | {"loss": float(F.cross_entropy(scores.double(), y))}


def _why_undefined(name: str, scores: Tensor, y: Tensor) -> str:
    """Return why a metric is not defined for these rows."""
    if name == "auc" and scores.shape[1] != 2:
        return f"there are {scores.shape[1]} classes, and AUC needs two"
    if len(y) == 1:
        return "there is only one row"
    return f"all {len(y)} rows have the same {'value' if name == 'r2' else 'class'}"


def margin(scores: Tensor) -> np.ndarray:
    """Return the score of the second of two classes minus that of the first [N], by which AUC ranks."""
    return (scores[:, 1].double() - scores[:, 0].double()).numpy()


def correct(scores: Tensor, y: Tensor) -> Tensor:
    """
    Return whether each row's highest score is that of its class [N]; its mean is the accuracy. A row with a score that
    is NaN or infinite is wrong: the highest would be any class. Minus infinity is the logarithm of 0.
    """
    return (scores.argmax(1) == y) & (scores < torch.inf).all(1)


def quick(scores: Tensor, y: Tensor) -> dict[str, float]:
    """Return the two metrics of each round, computed in torch alone; {} where they are not finite."""
    scores, y = _labelled(scores, y)
    if not len(y) or not torch.isfinite(scores).all():
        return {}
    if y.is_floating_point():
        loss = float((scores[:, 0] - y).pow(2).mean())
        values = {"loss": loss / 2, "rmse": loss**0.5}
    else:
        loss = float(F.cross_entropy(scores, y))
        values = {"loss": loss, "accuracy": float(correct(scores, y).float().mean())}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def row_losses(scores: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each row that has a label [N]: cross-entropy in nats, or squared error / 2."""
    scores, y = _labelled(scores, y)
    if y.is_floating_point():
        return (scores[:, 0] - y).pow(2) / 2
    return F.cross_entropy(scores, y, reduction="none")


def _labelled(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and labels of the rows that have a label: values that are not NaN, class numbers from 0."""
    known = y.isfinite() if y.is_floating_point() else y >= 0
    return (scores, y) if bool(known.all()) else (scores[known], y[known])


def better(metric: str, a: float, b: float) -> bool:
    """Return whether ``a`` is the better value of the metric."""
    return a < b if metric in LOWER_IS_BETTER else a > b


def means(per_silo: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """Return by metric the plain mean over the silos that have it, and how many these are."""
    names = sorted({name for figures in per_silo.values() for name in figures})
    values = {name: [figures[name] for figures in per_silo.values() if name in figures] for name in names}
    return (
        {name: float(np.mean(those)) for name, those in values.items()},
        {name: len(those) for name, those in values.items()},
    )


def worst_of(metric: str, per_silo: Mapping[str, Mapping[str, float]]) -> WorstSilo:
    """Return the silo with the worst value; of several, the first by name. Empty where no silo has the metric."""
    worst = WorstSilo()
    measured = [silo for silo in sorted(per_silo) if metric in per_silo[silo]]
    for silo in measured:
        value = per_silo[silo][metric]
        if not worst.silo or better(metric, worst.figures[metric], value):
            worst = WorstSilo(silo, {metric: value}, len(measured))
    return worst
