"""Weighted metrics against scikit-learn, and what several folds of one seed make together."""

import numpy as np
import pytest
from sklearn import metrics

from fedtl.tasks.metrics import figure
from fedtl.tasks.row_metrics import Answers, pooled


def answers(seed: int, n: int = 40, classes: int = 2) -> Answers:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, classes)).round(1)  # rounded, so that there are ties
    return Answers(scores, rng.integers(0, classes, n), np.arange(n))


@pytest.mark.parametrize("seed", range(5))
def test_weighted_figures_are_those_of_scikit_learn(seed):
    run, rng = answers(seed), np.random.default_rng(seed)
    weights = rng.integers(0, 4, (3, 40)).astype(float)
    guess, margin = run.scores.argmax(1), run.scores[:, 1] - run.scores[:, 0]
    p = np.exp(run.scores) / np.exp(run.scores).sum(1, keepdims=True)
    for row, w in enumerate(weights):
        expected = {
            "accuracy": metrics.accuracy_score(run.y, guess, sample_weight=w),
            "balanced_accuracy": metrics.balanced_accuracy_score(run.y, guess, sample_weight=w),
            "auc": metrics.roc_auc_score(run.y, margin, sample_weight=w),
            "loss": metrics.log_loss(run.y, p, sample_weight=w),
        }
        for name, value in expected.items():
            assert figure(name, run, weights)[row] == pytest.approx(value, abs=1e-9), name


def test_weighted_regression_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    run = Answers(rng.normal(size=(30, 1)), rng.normal(size=30), np.arange(30))
    w = rng.integers(0, 3, 30).astype(float)
    r2 = metrics.r2_score(run.y, run.scores[:, 0], sample_weight=w)
    mse = metrics.mean_squared_error(run.y, run.scores[:, 0], sample_weight=w)
    assert figure("r2", run, w[None])[0] == pytest.approx(r2)
    assert figure("rmse", run, w[None])[0] == pytest.approx(mse**0.5)


def test_balanced_accuracy_needs_two_classes_in_a_replicate_too():
    run = Answers(np.eye(2)[[0, 0, 1]], np.array([0, 0, 1]), np.arange(3))
    found = figure("balanced_accuracy", run, np.array([[1.0, 1, 1], [2, 1, 0]]))
    assert found[0] == 1
    assert np.isnan(found[1])


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1.7e9, 20), (5e-12, 1e-12), (0, 1e20)])
def test_r2_of_a_replicate_does_not_depend_on_the_unit(offset, scale):
    rng = np.random.default_rng(3)
    y = rng.normal(size=50)
    guess, w = y + rng.normal(size=50), rng.integers(0, 3, 50).astype(float)
    run = Answers((guess * scale + offset)[:, None], y * scale + offset, np.arange(50))
    assert figure("r2", run, w[None])[0] == pytest.approx(
        metrics.r2_score(y, guess, sample_weight=w), rel=1e-5
    )
    same = Answers(run.scores, np.full(50, offset + scale), run.ids)
    assert np.isnan(figure("r2", same, w[None])[0])


def test_of_several_folds_an_auc_compares_only_rows_that_one_model_answered():
    """The models of two folds have scores on different scales: each ranks its own rows without a mistake."""
    y = np.array([0, 0, 1, 1])
    low = Answers(np.stack([np.zeros(4), np.array([0.1, 0.2, 0.3, 0.4])], 1), y, np.arange(4))
    high = Answers(low.scores + np.array([0.0, 5.0]), y, np.arange(4, 8))
    together = pooled([low, high])
    assert figure("auc", together, np.ones((1, 8)))[0] == 1.0
    assert metrics.roc_auc_score(together.y, together.scores[:, 1]) == 0.75
    one_class = Answers(low.scores[:2], y[:2], np.arange(8, 10))  # has no pairs, and changes nothing
    assert figure("auc", pooled([low, one_class]), np.ones((1, 6)))[0] == 1.0


def test_of_several_folds_other_metrics_are_those_of_all_rows():
    folds = [answers(seed, classes=3) for seed in range(4)]
    together, ones = pooled(folds), np.ones((1, 160))
    guess, y = together.scores.argmax(1), np.concatenate([fold.y for fold in folds])
    assert figure("accuracy", together, ones)[0] == pytest.approx(metrics.accuracy_score(y, guess))
    balanced = metrics.balanced_accuracy_score(y, guess)
    assert figure("balanced_accuracy", together, ones)[0] == pytest.approx(balanced)
