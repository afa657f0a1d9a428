"""Weighted figures against scikit-learn; the bootstrap against a law and against cases with a known answer."""

import numpy as np
import pytest
from sklearn import metrics

from fedtl.experiment.bootstrap import Answers, Resampling, figure, gain, interval, verdict


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


def test_the_interval_of_an_accuracy_is_about_the_binomial_one():
    rng = np.random.default_rng(1)
    right = rng.random(400) < 0.8
    run = Answers(np.stack([1.0 - right, right], 1), np.ones(400, int), np.arange(400))
    low, high = interval(Resampling.draw([run], "x").replicates("accuracy", [run]))
    half = 1.96 * (right.mean() * (1 - right.mean()) / 400) ** 0.5
    assert low == pytest.approx(right.mean() - half, abs=0.01)
    assert high == pytest.approx(right.mean() + half, abs=0.01)


def test_a_test_set_shared_by_seeds_is_not_counted_as_several():
    """Five seeds with equal answers on the same rows know no more than one; on other rows they do."""
    rng = np.random.default_rng(2)
    right = rng.random(200) < 0.7
    scores, y = np.stack([1.0 - right, right], 1), np.ones(200, int)
    same = [Answers(scores, y, np.arange(200))] * 5
    other = [Answers(scores, y, np.arange(200) + 200 * i) for i in range(5)]

    def width(runs):
        low, high = interval(Resampling.draw(runs, "x").replicates("accuracy", runs))
        return high - low

    assert width(same) == pytest.approx(width(same[:1]), rel=0.15)
    assert width(other) < 0.65 * width(same)


def test_equal_answers_gain_exactly_nothing():
    runs = [answers(1), answers(2)]
    drawn = Resampling.draw(runs, "x")
    a, b = drawn.replicates("accuracy", runs), drawn.replicates("accuracy", list(runs))
    assert interval(gain("accuracy", a, b)) == (0.0, 0.0)


def test_the_pairing_matters():
    """One method right on every row of the other and one more: a sure gain, though the two intervals overlap."""
    n = 60
    base = np.arange(n) % 2 == 0
    more = base.copy()
    more[1:20:2] = True
    y = np.ones(n, int)
    a, b = (Answers(np.stack([1.0 - right, right], 1), y, np.arange(n)) for right in (more, base))
    drawn = Resampling.draw([a], "x")
    bounds = interval(gain("accuracy", drawn.replicates("accuracy", [a]), drawn.replicates("accuracy", [b])))
    assert verdict(bounds) == "gains"


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ([0.01, 0.2], "gains"),
        ([-0.2, -0.01], "loses"),
        ([-0.1, 0.1], "unclear"),
        ([0.0, 0.0], "unclear"),
        (None, "unclear"),
    ],
)
def test_verdicts(bounds, says):
    assert verdict(bounds) == says


def test_lower_is_better_for_errors():
    assert gain("rmse", np.array([1.0]), np.array([3.0])) == 2.0
    assert gain("r2", np.array([1.0]), np.array([3.0])) == -2.0


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
