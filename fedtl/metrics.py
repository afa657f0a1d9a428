"""
How good a model is on rows that it did not see: the figures of scikit-learn, and which way each is better.

``scores`` are a model's raw outputs: [N, classes], or [N, 1] in the label's own unit for regression.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOWER_IS_BETTER = frozenset({"loss", "rmse"})
CLASSIFICATION = ("accuracy", "balanced_accuracy", "auc", "loss")
REGRESSION = ("r2", "rmse", "loss")


def measure(scores: Tensor, y: Tensor) -> dict[str, float]:
    """
    Every figure that can be had; one that is undefined on these rows (AUC with one class) is absent, not 0.

    Classification: accuracy, balanced accuracy (mean recall over the classes that occur), AUC where there are
    two classes, cross-entropy in nats. Regression: R^2, RMSE in the label's unit, mean squared error / 2.
    """
    from sklearn import metrics

    scores, y = _labelled(scores, y)
    if not len(y):
        return {}
    if y.is_floating_point():
        guess, true = scores[:, 0].double().numpy(), y.double().numpy()
        if not np.isfinite(guess).all():
            return {}
        error = float(metrics.mean_squared_error(true, guess))
        found = {"rmse": error**0.5, "loss": error / 2}
        return (
            {"r2": float(metrics.r2_score(true, guess)), **found} if len(true) > 1 and true.std() else found
        )
    guesses, labels = scores.argmax(1).numpy(), y.numpy()
    present = np.unique(labels)
    found = {
        "accuracy": float(metrics.accuracy_score(labels, guesses)),
        "balanced_accuracy": float(metrics.recall_score(labels, guesses, labels=present, average="macro")),
    }
    if scores.shape[1] == 2 and len(present) == 2 and torch.isfinite(scores).all():
        found["auc"] = float(metrics.roc_auc_score(labels, margin(scores)))
    loss = float(F.cross_entropy(scores.double(), y))
    return found | ({"loss": loss} if np.isfinite(loss) else {})


def margin(scores: Tensor) -> np.ndarray:
    """[N]: by how much the second of two classes is preferred; what AUC ranks by."""
    return (scores[:, 1].double() - scores[:, 0].double()).numpy()


def quick(scores: Tensor, y: Tensor) -> dict[str, float]:
    """The two figures worth having every round, without leaving torch."""
    scores, y = _labelled(scores, y)
    if not len(y):
        return {}
    if y.is_floating_point():
        loss = float((scores[:, 0] - y).pow(2).mean())
        return {"loss": loss / 2, "rmse": loss**0.5}
    return {
        "loss": float(F.cross_entropy(scores, y)),
        "accuracy": float((scores.argmax(1) == y).float().mean()),
    }


def _labelled(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Without the rows that have no label: NaN among values, a negative number among classes."""
    known = y.isfinite() if y.is_floating_point() else y >= 0
    return (scores, y) if bool(known.all()) else (scores[known], y[known])


def better(metric: str, a: float, b: float) -> bool:
    """Whether ``a`` is the better value."""
    return a < b if metric in LOWER_IS_BETTER else a > b


def mean_over_silos(per_silo: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plain mean over the silos that have the figure."""
    names = sorted({name for figures in per_silo.values() for name in figures})
    return {
        name: float(np.mean([figures[name] for figures in per_silo.values() if name in figures]))
        for name in names
    }
