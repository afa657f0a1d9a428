"""
Bootstrap intervals over seeds and test rows (Efron and Tibshirani, 1993).

One replicate resamples the seeds and, once for all seeds, the test rows by their ids: two seeds that share a test row share
its weight, so that a fixed test set does not count as several. Two methods are compared on the same draws (paired). A metric
is computed with weights on the rows, for all replicates at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtl._util.randomness import numpy_generator
from fedtl.results.comparison import Interval, Verdict
from fedtl.training.metrics import LOWER_IS_BETTER

REPLICATES = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """One model's outputs on one silo's test rows: ``scores`` [N, classes] or [N, 1], ``y`` [N], ``ids`` [N]."""

    scores: Floats
    y: NDArray[np.generic]
    ids: NDArray[np.int64]


@dataclass(frozen=True)
class Resampling:
    """The draws for one silo: ``weights`` [R, ids], how often each row is drawn; ``seeds`` [R, S], which seeds are drawn."""

    ids: NDArray[np.int64]
    weights: Floats
    seeds: NDArray[np.int64]

    @classmethod
    def draw(cls, runs: Sequence[Answers], address: str, replicates: int = REPLICATES) -> "Resampling":
        """``address``: names the random stream; the same address gives the same draws."""
        rng = numpy_generator("bootstrap", address)
        ids = np.unique(np.concatenate([run.ids for run in runs]))
        weights = rng.multinomial(len(ids), np.full(len(ids), 1 / max(len(ids), 1)), replicates).astype(float)
        return cls(ids, weights, rng.integers(len(runs), size=(replicates, len(runs))))

    def replicates(self, metric: str, runs: Sequence[Answers]) -> Floats:
        """Return [R]: the mean over the drawn seeds of the metric on the drawn rows; NaN where it is undefined."""
        columns = [figure(metric, run, self.weights[:, np.searchsorted(self.ids, run.ids)]) for run in runs]
        picked = np.take_along_axis(np.stack(columns, 1), self.seeds, 1)
        return np.asarray(picked.mean(1))


def figure(metric: str, run: Answers, weights: Floats) -> Floats:
    """Return [R]: the metric with each row of ``weights`` [R, N] as weights; NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _FIGURES[metric](run, weights)


def interval(replicates: Floats) -> Interval | None:
    """Return the middle 95 %; None where fewer than half of the replicates are defined."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < 0.5 * len(replicates):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def gain(metric: str, mine: Floats, other: Floats) -> Floats:
    """Return by how much ``mine`` is better, in the unit of the metric."""
    return other - mine if metric in LOWER_IS_BETTER else mine - other


def verdict(bounds: Interval | None) -> Verdict:
    """Return what the interval of a gain says."""
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return Verdict.UNCLEAR
    return Verdict.GAINS if bounds[0] > 0 else Verdict.LOSES


def _accuracy(run: Answers, weights: Floats) -> Floats:
    return _ratio(weights, run.scores.argmax(1) == run.y, np.ones(len(run.y)))


def _balanced_accuracy(run: Answers, weights: Floats) -> Floats:
    right = run.scores.argmax(1) == run.y
    recalls = [_ratio(weights, right & (run.y == c), run.y == c) for c in np.unique(run.y)]
    stacked = np.stack(recalls, 1)
    there = np.isfinite(stacked)
    classes = np.where(
        there.sum(1) > 1, there.sum(1), np.nan
    )  # one class alone supports no balanced accuracy
    return np.asarray(np.where(there, stacked, 0).sum(1) / classes)


def _auc(run: Answers, weights: Floats) -> Floats:
    """Return the weighted share of (positive, negative) pairs in the right order; ties count half."""
    margin = run.scores[:, 1] - run.scores[:, 0]
    _, rank = np.unique(margin, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(rank.max() + 1))
    positive, negative = (np.add.reduceat((weights * (run.y == c))[:, order], starts, axis=1) for c in (1, 0))
    below = negative.cumsum(1) - negative / 2
    return np.asarray((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))


def _loss(run: Answers, weights: Floats) -> Floats:
    if (
        run.y.dtype.kind == "f"
    ):  # regression: labels of a classification are integers, however they are stored
        return _half_square(run, weights)
    shifted = run.scores - run.scores.max(1, keepdims=True)
    nats = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(run.y)), run.y.astype(int)]
    return _ratio(weights, nats, np.ones(len(run.y)))


def _half_square(run: Answers, weights: Floats) -> Floats:
    return _ratio(weights, (run.scores[:, 0] - run.y.astype(float)) ** 2 / 2, np.ones(len(run.y)))


def _rmse(run: Answers, weights: Floats) -> Floats:
    return np.sqrt(2 * _half_square(run, weights))


def _r2(run: Answers, weights: Floats) -> Floats:
    n, y = weights.sum(1), run.y.astype(float)
    y -= y.mean()  # squares of far values would cancel
    total = weights @ y**2 / n - (weights @ y / n) ** 2
    varies = total > 1e-12 * np.square(y).max(initial=0)
    return np.asarray(1 - 2 * _half_square(run, weights) / np.where(varies, total, np.nan))


def _ratio(weights: Floats, above: NDArray[np.generic], below: NDArray[np.generic]) -> Floats:
    return np.asarray((weights @ above.astype(float)) / (weights @ below.astype(float)))


_FIGURES: Mapping[str, Callable[[Answers, Floats], Floats]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "auc": _auc,
    "loss": _loss,
    "rmse": _rmse,
    "r2": _r2,
}
