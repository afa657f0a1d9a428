"""Intervals against scipy's t test, DeLong's variance and McNemar's test, and how often they cover, by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedtl.experiment.uncertainty import MAX_GROUPS, Certainty, Measurement, mean_of, measure
from fedtl.tasks.row_metrics import Answers, pooled


def of_hits(hits, ids=None, units=None):
    """Answers that are right where ``hits`` is true."""
    hits = np.asarray(hits, bool)
    more = {} if units is None else {"units": np.asarray(units)}
    ids = np.arange(len(hits)) if ids is None else ids
    return Answers(np.stack([1.0 - hits, hits], 1), np.ones(len(hits), int), ids, **more)


def difference(mine, other, metric="accuracy"):
    """``mine`` minus ``other``, each the answers of some seeds."""
    return measure(metric, mine, "a").minus(measure(metric, other, "a"))


def regression(rng, n, noise):
    y = rng.normal(size=n)
    return Answers((y + noise * rng.normal(size=n))[:, None], y, np.arange(n))


def test_with_one_seed_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    mine, other = rng.random(80) < 0.8, rng.random(80) < 0.6
    test = stats.ttest_rel(mine.astype(float), other.astype(float))
    found = difference([of_hits(mine)], [of_hits(other)]).certainty()
    assert found.interval() == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p_difference() == pytest.approx(test.pvalue)


def test_the_loss_of_a_regression_has_the_interval_of_its_squares():
    rng = np.random.default_rng(1)
    one, two = regression(rng, 50, 0.5), regression(rng, 50, 0.7)
    squares = [(run.scores[:, 0] - run.y) ** 2 / 2 for run in (one, Answers(two.scores, one.y, one.ids))]
    found = difference([one], [Answers(two.scores, one.y, one.ids)], "loss").certainty()
    expected = stats.ttest_rel(*squares).confidence_interval(0.95)
    assert found.interval() == pytest.approx(tuple(expected))


@pytest.mark.parametrize("metric", ["rmse", "r2"])
def test_the_error_of_other_metrics_is_that_of_the_delta_method(metric):
    rng = np.random.default_rng(2)
    run = regression(rng, 2000, 0.6)
    e, y = run.scores[:, 0] - run.y, run.y - run.y.mean()
    mse, total = (e**2).mean(), (y**2).mean()
    influence = {
        "rmse": (e**2 - mse) / (2 * mse**0.5),
        "r2": -(e**2 - mse) / total + mse * (y**2 - total) / total**2,
    }
    expected = influence[metric].std() / 2000**0.5
    assert measure(metric, [run], "a").certainty().error == pytest.approx(
        expected, rel=0.1
    )  # 500 groups of 4


def delong(y, mine, other):
    """The standard error of a difference of two AUCs (DeLong et al., 1988), from the placements."""
    placed = []
    for scores in (mine, other):
        wins = (scores[y == 1][:, None] > scores[y == 0]) + 0.5 * (scores[y == 1][:, None] == scores[y == 0])
        placed.append((wins.mean(1), wins.mean(0)))
    by_positive, by_negative = (placed[0][at] - placed[1][at] for at in (0, 1))
    return (by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)) ** 0.5


def test_the_error_of_an_auc_is_that_of_delong():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 150)
    mine, other = y + rng.normal(size=150), y + 1.5 * rng.normal(size=150)
    a, b = (Answers(np.stack([0 * s, s], 1), y, np.arange(150)) for s in (mine, other))
    found = difference([a], [b], "auc").certainty()
    assert found.error == pytest.approx(delong(y, mine, other), rel=0.02)
    assert found.freedom == min((y == 0).sum(), (y == 1).sum()) - 1


def test_one_row_a_unit_is_as_if_there_were_no_units_and_copies_of_rows_know_no_more():
    rng = np.random.default_rng(4)
    mine, other = rng.random(40) < 0.8, rng.random(40) < 0.6
    alone = difference([of_hits(mine)], [of_hits(other)]).certainty()
    copied = [np.repeat(hits, 5) for hits in (mine, other)]
    units = np.repeat(np.arange(40), 5)
    together = difference(*([of_hits(hits, units=units)] for hits in copied)).certainty()
    assert together.interval() == pytest.approx(alone.interval())
    blind = difference(*([of_hits(hits)] for hits in copied)).certainty()
    assert blind.error < 0.5 * alone.error  # what it would be without the units


def test_a_test_set_shared_by_seeds_is_not_counted_as_several():
    rng = np.random.default_rng(5)
    hits = rng.random(200) < 0.7
    one = measure("accuracy", [of_hits(hits)], "a").certainty()
    same = measure("accuracy", [of_hits(hits)] * 5, "a").certainty()
    assert same.error == pytest.approx(one.error)
    others = [of_hits(rng.permutation(hits), np.arange(200) + 200 * seed) for seed in range(5)]
    assert measure("accuracy", others, "a").certainty().error == pytest.approx(one.error / 5**0.5, rel=0.1)


def test_where_only_the_seeds_differ_the_interval_is_that_of_the_seeds():
    """In the mean over many silos, test rows cancel; what is left is that each training ends elsewhere."""
    seeds = np.array([0.02, 0.05, 0.03])
    rows = measure("accuracy", [of_hits(np.arange(10) < 5)] * 3, "a").blocks[0].scaled(0)
    found = Measurement(seeds, (rows,)).certainty()
    expected = stats.t.interval(0.95, 2, seeds.mean(), seeds.std(ddof=1) / 3**0.5)
    assert found.interval() == pytest.approx(expected)


def test_of_the_spread_between_seeds_half_of_what_test_rows_explain_is_counted_once():
    """Rows of seeds that have none in common: each seed has the variance 0.01 from its rows, and 0.01 is seen."""
    block = measure("loss", [regression(np.random.default_rng(0), 10, 1.0)], "a").blocks[0]
    own = Measurement(np.array([0.0, 0.1, 0.2]), (replace(block, influences=0.1 * np.eye(3), freedom=20),))
    found = own.certainty()
    assert found.error**2 == pytest.approx(0.01 / 3 + (0.01 - 0.01 / 2) / 3)
    assert found.freedom == pytest.approx(0.005**2 / ((0.01 / 3) ** 2 / 20 + (0.01 / 3) ** 2 / 2))


def test_two_models_that_agree_on_all_rows_may_still_differ():
    n = 60
    low, high = difference([of_hits([1] * n)], [of_hits([1] * n)]).certainty().interval()
    assert (low, high) == pytest.approx((-3 / n, 3 / n), abs=0.004)  # the rule of three
    assert measure("accuracy", [of_hits([1] * n)], "a").certainty().interval()[0] == pytest.approx(
        1 - 3 / n, abs=0.004
    )


def test_too_few_rows_give_no_interval():
    assert measure("accuracy", [of_hits([1])], "a").certainty().interval() is None
    one_positive = Answers(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 0, 1]), np.arange(4))
    assert measure("auc", [one_positive], "a").certainty().interval() is None
    both = mean_of(
        [measure("accuracy", [of_hits([1])], "a"), measure("accuracy", [of_hits([1, 0] * 9)], "b")]
    )
    assert both.certainty().mean == 0.75
    assert both.certainty().interval() is not None


def test_many_rows_are_left_out_several_at_a_time():
    rng = np.random.default_rng(6)
    hits = rng.random(5000) < 0.8
    found = [measure("accuracy", [of_hits(hits)], f"silo {at}") for at in range(8)]
    assert found[0].blocks[0].influences.shape == (1, MAX_GROUPS)
    error = np.mean([one.certainty().error for one in found])
    assert error == pytest.approx(hits.std() / 5000**0.5, rel=0.04)  # each alone: 3 %


def test_equivalence_is_that_of_two_one_sided_tests():
    x = np.random.default_rng(7).normal(0.002, 0.05, 400)
    found = Certainty(x.mean(), x.std(ddof=1) / 20, 399)
    below, above = (
        stats.ttest_1samp(x, at, alternative=how).pvalue for at, how in ((0.01, "less"), (-0.01, "greater"))
    )
    assert found.p_equivalence(0.01) == pytest.approx(2 * max(below, above))
    inside = all(abs(end) <= 0.01 for end in found.interval())
    assert inside == (found.p_equivalence(0.01) <= 0.05)
    assert Certainty(0.0, 0.0, np.inf).p_equivalence(0.01) == 0  # the same models
    assert Certainty(0.0, 0.0, np.inf).p_difference() == 1


def draw(rng, n, seeds, gain, noise, same):
    """Differences of seeds, each row of which is right under one method alone (20 % of rows) or under both."""
    latent, runs = rng.random(n), ([], [])
    for seed, shift in enumerate(rng.normal(0, noise, seeds)):
        own = latent if same else rng.random(n)
        mixed = np.where(rng.random(n) < 0.6, own, rng.random(n))
        up, down = (0.2 + gain + shift) / 2, (0.2 - gain - shift) / 2
        ids = np.arange(n) + (0 if same else n * seed)
        runs[0].append(of_hits(mixed < 1 - down, ids))
        runs[1].append(of_hits(mixed > up, ids))
    return difference(*runs).certainty()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "seeds", "noise", "same"),
    [
        (16, 1, 0, True),
        (60, 1, 0, True),
        (60, 3, 0, True),
        (60, 3, 0, False),
        (200, 3, 0.02, True),
        (200, 5, 0.02, False),
    ],
)
def test_intervals_cover_the_true_gain_and_find_it_as_often_as_they_say(n, seeds, noise, same):
    rng = np.random.default_rng(8)
    found = [draw(rng, n, seeds, 0.05, noise, same) for _ in range(400)]
    covered = np.mean([low <= 0.05 <= high for low, high in (one.interval() for one in found)])
    assert 0.90 <= covered <= 0.995
    null = [draw(rng, n, seeds, 0.0, noise, same) for _ in range(400)]
    assert np.mean([one.p_difference() <= 0.05 for one in null]) <= 0.085


def test_a_gain_of_the_detectable_size_is_seen_in_four_of_five_repetitions():
    rng = np.random.default_rng(9)
    size = float(np.median([draw(rng, 150, 1, 0.0, 0, True).detectable() for _ in range(40)]))
    seen = np.mean([draw(rng, 150, 1, size, 0, True).p_difference() <= 0.05 for _ in range(500)])
    assert seen == pytest.approx(0.8, abs=0.06)


def test_two_models_with_perfect_rankings_may_still_differ_but_rankings_that_hardly_differ_are_not_blurred():
    y = np.repeat([0, 1], 20)
    perfect = [Answers(np.stack([0 * y, y + shift], 1), y, np.arange(40)) for shift in (0.0, 1.0)]
    low, high = difference(perfect[:1], perfect[1:], "auc").certainty().interval()
    assert (low, high) == pytest.approx((-3 / 20, 3 / 20), abs=0.01)
    scores = np.random.default_rng(10).normal(size=40) + y
    moved = scores.copy()
    moved[y == 0] -= np.where(np.arange(20) < 2, 0.3, 0.0)  # two rows of forty change places with few others
    a, b = (Answers(np.stack([0 * y, s], 1), y, np.arange(40)) for s in (moved, scores))
    found = difference([a], [b], "auc").certainty()
    assert 0 < found.error == pytest.approx(delong(y, moved, scores), rel=0.1)
    assert found.error < 0.02


@pytest.mark.parametrize("metric", ["auc", "balanced_accuracy"])
def test_the_same_answer_to_every_row_is_surely_no_better_than_chance(metric):
    answers = Answers(np.tile([0.3, 0.7], (30, 1)), np.arange(30) % 2, np.arange(30))
    assert measure(metric, [answers], "a").certainty().interval() == (0.5, 0.5)
    other = Answers(np.tile([0.4, 0.6], (30, 1)), answers.y, np.arange(30, 60))
    assert measure(metric, [pooled([answers, other])], "a").certainty().interval() == (0.5, 0.5)


def of_silos(rng, silos, n, up, down):
    """The mean difference over silos; a share ``up`` of the rows is right under the first method alone, ``down`` under the other."""
    draws = rng.random((silos, n))
    return mean_of([difference([of_hits(one >= down)], [of_hits(one <= 1 - up)]) for one in draws])


@pytest.mark.slow
@pytest.mark.parametrize(("silos", "n", "up", "down"), [(6, 50, 0.02, 0.002), (4, 40, 0.01, 0.01)])
def test_the_mean_of_silos_that_hardly_differ_has_an_interval_that_covers_and_is_not_six_times_too_careful(
    silos, n, up, down
):
    rng = np.random.default_rng(11)
    ends = [of_silos(rng, silos, n, up, down).certainty().interval() for _ in range(300)]
    assert 0.93 <= np.mean([low <= up - down <= high for low, high in ends]) <= 0.995


def test_the_mean_of_silos_without_any_difference_has_the_variance_of_three_rows_with_opposite_outcomes():
    silos, n = 6, 50
    certainty = of_silos(np.random.default_rng(12), silos, n, 0.0, 0.0).certainty()
    half = stats.t.ppf(0.975, silos * (n - 1)) * 3**0.5 / (silos * n)
    assert certainty.interval() == pytest.approx((-half, half))
