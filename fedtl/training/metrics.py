"""
How good a model is on rows that it did not see: the figures of scikit-learn, and which way each is better.

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
    Every figure that these rows support.

    Classification (y: class numbers): accuracy, balanced accuracy (mean recall over the classes that occur; it takes
    two), AUC where there are two classes, cross-entropy in nats. Regression (y: values, and the scores have one
    column): R^2, RMSE in the label's unit, mean squared error / 2.
    """
    scores, y = _labelled(scores, y)
    names = REGRESSION if y.is_floating_point() else CLASSIFICATION  # prepare makes y by the task
    if not len(y):
        return Measured({}, dict.fromkeys(names, "there are no rows"))
    if broken := int((~torch.isfinite(scores)).any(1).sum()):
        return Measured({}, dict.fromkeys(names, f"the scores of {broken} of {len(y)} rows are not finite"))
    found = _of_values(scores, y) if names is REGRESSION else _of_classes(scores, y)
    too_large = {name: "too large for a number" for name, value in found.items() if not np.isfinite(value)}
    figures = {name: value for name, value in found.items() if name not in too_large}
    lacking = {name: _lacking(name, scores, y) for name in names if name not in found}
    return Measured(figures, too_large | lacking)


def _of_values(scores: Tensor, y: Tensor) -> dict[str, float]:
    from sklearn import metrics

    guess, true = scores[:, 0].double().numpy(), y.double().numpy()
    error = float(metrics.mean_squared_error(true, guess))
    found = {"rmse": error**0.5, "loss": error / 2}
    return {"r2": float(metrics.r2_score(true, guess)), **found} if (true != true[0]).any() else found


def _of_classes(scores: Tensor, y: Tensor) -> dict[str, float]:
    from sklearn import metrics

    guesses, labels = scores.argmax(1).numpy(), y.numpy()
    present = np.unique(labels)
    found = {"accuracy": float(metrics.accuracy_score(labels, guesses))}
    if len(present) > 1:
        recall = metrics.recall_score(labels, guesses, labels=present, average="macro")
        found["balanced_accuracy"] = float(recall)
        if scores.shape[1] == 2:
            found["auc"] = float(metrics.roc_auc_score(labels, margin(scores)))
    return found | {"loss": float(F.cross_entropy(scores.double(), y))}


def _lacking(name: str, scores: Tensor, y: Tensor) -> str:
    """Why these rows do not support the figure."""
    if name == "auc" and scores.shape[1] != 2:
        return f"there are {scores.shape[1]} classes, and this AUC takes two"
    if len(y) == 1:
        return "there is only one row"
    return f"all {len(y)} rows have the same {'value' if name == 'r2' else 'class'}"


def margin(scores: Tensor) -> np.ndarray:
    """[N]: by how much the second of two classes is preferred; what AUC ranks by."""
    return (scores[:, 1].double() - scores[:, 0].double()).numpy()


def correct(scores: Tensor, y: Tensor) -> Tensor:
    """Return whether each row's highest score is that of its class [N]; its mean is the accuracy."""
    return scores.argmax(1) == y


def quick(scores: Tensor, y: Tensor) -> dict[str, float]:
    """The two figures worth having every round, without leaving torch; {} where they are not finite."""
    scores, y = _labelled(scores, y)
    if not len(y) or not torch.isfinite(scores).all():
        return {}
    if y.is_floating_point():
        loss = float((scores[:, 0] - y).pow(2).mean())
        found = {"loss": loss / 2, "rmse": loss**0.5}
    else:
        loss = float(F.cross_entropy(scores, y))
        found = {"loss": loss, "accuracy": float(correct(scores, y).float().mean())}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _labelled(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Without the rows that have no label: NaN among values, a negative number among classes."""
    known = y.isfinite() if y.is_floating_point() else y >= 0
    return (scores, y) if bool(known.all()) else (scores[known], y[known])


def better(metric: str, a: float, b: float) -> bool:
    """Whether ``a`` is the better value."""
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
