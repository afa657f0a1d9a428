"""Metrics of several classes or labels, of ordered levels and of counts, with a weight on each row. See ``row_metrics``."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedtl.tasks.row_metrics import Answers, Floats, ordered_pairs, ratio

BINS = 15  # of the calibration error, as Guo et al.


def macro_auc(answers: Answers, weights: Floats) -> Floats:
    """
    Return the mean AUC of each class, or label, against the rest, over those that some rows have and others do not. Both rows of a
    pair were answered by the same model.
    """
    models = answers.models if len(answers.models) else np.zeros(len(answers.y), int)
    areas = []
    for score, y, _ in _one_by_one(answers):
        above, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for model in np.unique(models):
            rows = models == model
            ordered, all_pairs = ordered_pairs(score[rows], y[rows], weights[:, rows])
            above, pairs = above + ordered, pairs + all_pairs
        areas.append(above / pairs)
    return _mean_of_defined(np.stack(areas, 1))


def macro_f1(answers: Answers, weights: Floats) -> Floats:
    """Return the mean of F1 = 2 TP / (2 TP + FP + FN) over the classes, or labels, that occur."""
    scores = []
    for _, y, predicted in _one_by_one(answers):
        known = ~np.isnan(y)
        right, either = predicted & (y == 1), (predicted & known).astype(float) + (y == 1)
        occurs = weights @ (y == 1).astype(float) > 0
        scores.append(np.where(occurs, 2 * ratio(weights, right, either), np.nan))
    return _mean_of_defined(np.stack(scores, 1))


def calibration_error(answers: Answers, weights: Floats) -> Floats:
    """
    Return the expected calibration error (Naeini et al., 2015; Guo et al., 2017): over 15 equal bins of the probability of the
    predicted class, the mean difference between this probability and the share of right answers, weighted by rows.
    """
    shares = probabilities(answers.scores)
    sure, right = shares.max(1), (answers.chosen == answers.y).astype(float)
    which = np.ceil(sure * BINS).clip(1, BINS).astype(int) - 1
    gaps = [np.abs(weights @ ((right - sure) * (which == one))) for one in np.unique(which)]
    return np.asarray(np.sum(gaps, 0) / weights.sum(1))


def mean_absolute_error(answers: Answers, weights: Floats) -> Floats:
    """Return the mean number of levels between the predicted one and the right one."""
    return ratio(weights, np.abs(answers.chosen - answers.y.astype(float)), np.ones(len(answers.y)))


def quadratic_kappa(answers: Answers, weights: Floats) -> Floats:
    """
    Return Cohen's kappa with quadratic weights (1968): 1 - squared distances of predicted levels / those of independent ones.
    """
    y, guess, total = answers.y.astype(float), answers.chosen.astype(float), weights.sum(1)
    means = [weights @ one / total for one in (y, guess)]
    squares = [weights @ one**2 / total for one in (y, guess)]
    by_chance = squares[0] + squares[1] - 2 * means[0] * means[1]
    return np.asarray(
        1 - ratio(weights, (y - guess) ** 2, np.ones(len(y))) / np.where(by_chance > 0, by_chance, np.nan)
    )


def deviance(answers: Answers, weights: Floats) -> Floats:
    """Return the mean Poisson deviance 2 (y log(y / m) - y + m), with m = exp(score)."""
    return ratio(
        weights, _deviances(answers.y.astype(float), np.exp(answers.scores[:, 0])), np.ones(len(answers.y))
    )


def d2(answers: Answers, weights: Floats) -> Floats:
    """Return D^2 = 1 - deviance / (deviance of the mean count), as R^2 does for squared errors."""
    y = answers.y.astype(float)
    mean = weights @ y / weights.sum(1)
    logs = weights @ (y * np.log(np.where(y > 0, y, 1.0))) / weights.sum(1)
    null = 2 * (logs - mean * np.log(np.where(mean > 0, mean, 1.0)))
    return np.asarray(1 - deviance(answers, weights) / np.where(null > 1e-12 * mean, null, np.nan))


def count_rmse(answers: Answers, weights: Floats) -> Floats:
    """Return the root of the mean squared difference between counts and expected counts."""
    error = (np.exp(answers.scores[:, 0]) - answers.y.astype(float)) ** 2
    return np.sqrt(ratio(weights, error, np.ones(len(error))))


def _deviances(y: Floats, mean: Floats) -> Floats:
    return np.asarray(2 * (y * np.log(np.where(y > 0, y, 1.0) / np.where(y > 0, mean, 1.0)) - y + mean))


def _one_by_one(answers: Answers) -> Iterator[tuple[Floats, Floats, NDArray[np.bool_]]]:
    """Yield for each class, or label, its score [N], whether a row has it (1, 0, or NaN where not known), and whether it is predicted."""
    if answers.y.ndim > 1:
        for score, y in zip(answers.scores.T, answers.y.astype(float).T, strict=True):
            yield score, y, score > 0
        return
    shares, chosen = probabilities(answers.scores), answers.chosen
    for one in range(answers.scores.shape[1]):
        yield shares[:, one], (answers.y == one).astype(float), chosen == one


def probabilities(scores: Floats) -> Floats:
    """Return the probability of each class [N, K] for scores of exclusive classes: softmax."""
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def _mean_of_defined(values: Floats) -> Floats:
    """Return the mean [R] of the numbers of each row of [R, C] that are not NaN; NaN where all are."""
    there = np.isfinite(values)
    return np.asarray(np.where(there, values, 0).sum(1) / np.where(there.any(1), there.sum(1), np.nan))
