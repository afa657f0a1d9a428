"""Metrics of a model on the test rows of one silo, with a weight on each row, for many sets of weights at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedtl.tasks.base import LearningTask

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Answers:
    """
    The outputs of one seed on a silo's test rows. ``scores``: [N, width], or of a task by pixel [N, width, H, W]; ``y``: [N], [N, K] or
    [N, H, W]. ``ids`` [N]: numbers of the rows, the same in all runs. ``units`` [N]: the unit, such as a patient, to which each row
    belongs; empty: each row is a unit of its own. ``models`` [N]: with ``compare.folds``, the number of the model that answered the row;
    empty: there is one model. ``task``: what was predicted; None: classification or regression, by the type of ``y``. ``kept``: a cache
    of what metrics compute from all rows.
    """

    scores: Floats
    y: NDArray[np.generic]
    ids: Integers
    units: Integers = field(default_factory=NO_ROWS.copy)
    models: Integers = field(default_factory=NO_ROWS.copy)
    task: "LearningTask | None" = None
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def chosen(self) -> Floats:
        """The number of the predicted class of each row [N]."""
        return np.asarray(self.scores.argmax(1)) if self.task is None else self.task.chosen(self.scores)

    @property
    def groups(self) -> Integers:
        """The unit of each row [N]: rows of one unit depend on each other, rows of different units do not."""
        return self.units if len(self.units) else self.ids


Figure = Callable[[Answers, Floats], Floats]  # the metric [R] with each row of weights [R, N]


def pooled(folds: Sequence[Answers]) -> Answers:
    """Return the answers of all folds of a seed; in each of them another model answered other rows."""
    sizes = [len(fold.y) for fold in folds]
    return Answers(
        np.concatenate([fold.scores for fold in folds]),
        np.concatenate([fold.y for fold in folds]),
        np.concatenate([fold.ids for fold in folds]),
        np.concatenate([fold.units for fold in folds]),
        np.repeat(np.arange(len(folds)), sizes) if len(folds) > 1 else NO_ROWS,
        folds[0].task,
    )


def accuracy(answers: Answers, weights: Floats) -> Floats:
    """Return the share of rows whose highest score is that of their class."""
    return ratio(weights, answers.chosen == answers.y, np.ones(len(answers.y)))


def balanced_accuracy(answers: Answers, weights: Floats) -> Floats:
    """Return the mean recall over the classes that occur."""
    right = answers.chosen == answers.y
    recalls = [ratio(weights, right & (answers.y == c), answers.y == c) for c in np.unique(answers.y)]
    stacked = np.stack(recalls, 1)
    there = np.isfinite(stacked)
    classes = np.where(there.sum(1) > 1, there.sum(1), np.nan)  # balanced accuracy needs two classes
    return np.asarray(np.where(there, stacked, 0).sum(1) / classes)


def auc(answers: Answers, weights: Floats) -> Floats:
    """
    Return the weighted share of (positive, negative) pairs in the right order; ties count half. Both rows of a pair
    were answered by the same model, because the scores of two models have no common scale (Forman and Scholz, 2010).
    """
    margin = answers.scores[:, 1] - answers.scores[:, 0]
    ordered, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    models = answers.models if len(answers.models) else np.zeros(len(answers.y), int)
    for model in np.unique(models):
        rows = models == model
        above, all_pairs = ordered_pairs(margin[rows], answers.y[rows], weights[:, rows])
        ordered, pairs = ordered + above, pairs + all_pairs
    return np.asarray(ordered / pairs)


def ordered_pairs(margin: Floats, y: NDArray[np.generic], weights: Floats) -> tuple[Floats, Floats]:
    """Return [R]: the weight of the pairs in the right order, and of all pairs."""
    _, rank = np.unique(margin, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(rank.max() + 1))
    positive, negative = (np.add.reduceat((weights * (y == c))[:, order], starts, axis=1) for c in (1, 0))
    below = negative.cumsum(1) - negative / 2
    return (positive * below).sum(1), positive.sum(1) * negative.sum(1)


def loss(answers: Answers, weights: Floats) -> Floats:
    """Return the mean loss: cross-entropy in nats, half the squared error, or that of the task."""
    if answers.task is not None and not answers.task.everywhere:
        import torch  # not needed to show metrics

        losses = answers.task.losses(torch.from_numpy(answers.scores), torch.from_numpy(answers.y))
        return ratio(weights, losses.numpy(), np.ones(len(answers.y)))
    if (
        answers.y.dtype.kind == "f"
    ):  # regression: labels of a classification are integers, however they are stored
        return _half_square(answers, weights)
    shifted = answers.scores - answers.scores.max(1, keepdims=True)
    nats = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(answers.y)), answers.y.astype(int)]
    return ratio(weights, nats, np.ones(len(answers.y)))


def _half_square(answers: Answers, weights: Floats) -> Floats:
    return ratio(weights, (answers.scores[:, 0] - answers.y.astype(float)) ** 2 / 2, np.ones(len(answers.y)))


def rmse(answers: Answers, weights: Floats) -> Floats:
    """Return the root of the mean squared error, in the unit of the label."""
    return np.sqrt(2 * _half_square(answers, weights))


def r2(answers: Answers, weights: Floats) -> Floats:
    """Return 1 - squared errors / squared distances from the mean label."""
    n, y = weights.sum(1), answers.y.astype(float)
    y -= y.mean()  # squares of far values would cancel
    total = weights @ y**2 / n - (weights @ y / n) ** 2
    varies = total > 1e-12 * np.square(y).max(initial=0)
    return np.asarray(1 - 2 * _half_square(answers, weights) / np.where(varies, total, np.nan))


def ratio(weights: Floats, above: NDArray[np.generic], below: NDArray[np.generic]) -> Floats:
    """Return [R]: the sum of ``above`` [N] over that of ``below``, both with weights [R, N]."""
    return np.asarray((weights @ above.astype(float)) / (weights @ below.astype(float)))
