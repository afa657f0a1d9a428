"""How well silos are told apart, against laws of the normal distribution; distances of labels, against numbers by hand and scipy."""

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from fedtl.data import shift
from fedtl.data.label_shift import label_shifts
from fedtl.data.shift import Sample, interval, separations


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(shift, "TREES", 20)


def sample(rng, rows, centre=0.0, groups=None, columns=3):
    x = rng.normal(size=(rows, columns))
    x[:, 0] += centre
    return Sample(x, np.arange(rows) + rng.integers(1 << 40) if groups is None else groups)


def drawn_auc(rng, apart, one, other):
    """The area under the curve of normal scores: its true value is Phi(apart / sqrt 2)."""
    ranks = rankdata(np.concatenate([rng.normal(apart, size=one), rng.normal(size=other)]))
    return (ranks[:one].sum() - one * (one + 1) / 2) / (one * other)


@pytest.mark.parametrize(("apart", "one", "other"), [(0.0, 20, 60), (1.0, 30, 30), (2.5, 40, 20)])
def test_an_interval_holds_the_true_area_in_95_of_100_samples(apart, one, other):
    rng, true = np.random.default_rng(0), norm.cdf(apart / np.sqrt(2))
    ends = [interval(drawn_auc(rng, apart, one, other), one, other) for _ in range(300)]
    held = np.mean([low <= true <= high for low, high in ends])
    assert 0.91 <= held <= 0.99


def test_an_interval_has_a_width_where_all_rows_are_told_apart():
    low, high = interval(1.0, 10, 10)
    assert low < 0.95
    assert high == pytest.approx(1, abs=1e-5)
    assert interval(0.0, 10, 10) == (pytest.approx(0, abs=1e-5), pytest.approx(1 - low))


def test_silos_with_the_same_distribution_are_not_told_apart_and_others_are():
    rng = np.random.default_rng(1)
    alone, pairs = separations({"a": sample(rng, 60), "b": sample(rng, 60), "c": sample(rng, 60, 4.0)}, 0)
    assert pairs["a", "b"].ci95[0] < 0.5 < pairs["a", "b"].ci95[1]
    # The best possible classifier has Phi(4 / sqrt 2) = 0.998.
    assert 0.97 < pairs["a", "c"].auc <= 1
    assert alone["c"].auc > 0.97 > alone["a"].auc
    assert (alone["c"].rows, pairs["a", "c"].rows) == (180, 120)


def test_silos_of_equal_shares_are_not_below_chance():
    """Four groups of values, as many rows of each at both silos; or the same rows at both, but for a rounding."""
    rng = np.random.default_rng(5)
    groups = [np.column_stack([np.arange(80) % 20, rng.normal(size=80)]) for _ in "ab"]
    shares = [Sample(x, np.arange(80) + 80 * at) for at, x in enumerate(groups)]
    copies = [Sample(groups[0] + 1e-5 * at, np.arange(80) + 80 * at) for at in range(2)]
    for a, b in (shares, copies):
        found = separations({"a": a, "b": b}, 0)[1]["a", "b"]
        low, high = interval(found.auc, 40, 40)
        assert high < 0.5  # as an interval of any classifier
        assert found.ci95 == (low, 0.5)


def test_copies_of_rows_do_not_show_their_silo():
    """A forest that saw a copy would name its silo: in separate folds, the rows of these silos would be told apart."""
    rng = np.random.default_rng(2)
    thrice = {}
    for name in "ab":
        own = sample(rng, 40)
        thrice[name] = Sample(np.tile(own.features, (3, 1)), np.tile(own.groups, 3))
    _, pairs = separations(thrice, 0)
    assert 0.3 < pairs["a", "b"].auc < 0.7


def test_the_score_depends_on_the_seed_and_not_on_the_values_of_the_groups():
    rng = np.random.default_rng(3)
    silos = {name: sample(rng, 30, groups=np.arange(30) + 30 * at) for at, name in enumerate("ab")}
    hashed = {
        name: Sample(own.features, rng.permutation(1 << 20)[:60][own.groups]) for name, own in silos.items()
    }
    hashed["b"] = Sample(hashed["b"].features, -1 - hashed["b"].groups)
    assert separations(silos, 0) == separations(hashed, 0)


def test_missing_values_show_a_silo_and_few_rows_do_not_count(monkeypatch):
    rng = np.random.default_rng(4)
    silos = {"a": sample(rng, 40), "b": sample(rng, 40), "c": sample(rng, 9)}
    silos["b"].features[:, 1] = np.nan
    alone, pairs = separations(silos, 0)
    assert pairs["a", "b"].auc > 0.95
    assert alone.keys() == {"a", "b"}
    assert shift.too_few(silos) == ("c",)
    monkeypatch.setattr(shift, "MOST_PAIRS", 1)
    assert separations(silos, 0) == (alone, {})


def test_distances_of_labels():
    y = {
        "a": np.repeat(["no", "yes"], [30, 10]),
        "b": np.repeat(["no", "yes"], [10, 30]),
        "c": np.array([], str),
    }
    found = label_shifts(y, regression=False)
    assert found.keys() == {"a", "b"}
    assert found["a"].distance == pytest.approx(0.5)  # (|3/4 - 1/4| + |1/4 - 3/4|) / 2
    # Pearson's statistic with Yates' correction: 40 rows each, expected 20 in each cell, so 4 (10 - 1/2)^2 / 20 = 18.05.
    assert found["a"].p == pytest.approx(2 * norm.sf(np.sqrt(18.05)))
    assert label_shifts({"a": y["a"]}, regression=False) == {}
    same = label_shifts({"a": np.array(["x"] * 5), "b": np.array(["x"] * 7)}, regression=False)
    assert (same["a"].distance, same["a"].p) == (0.0, 1.0)


def test_distances_of_values():
    y = {"a": np.arange(20.0), "b": np.arange(20.0) + 10}
    found = label_shifts(y, regression=True)
    assert found["a"].distance == pytest.approx(0.5)  # at 9.5 half of a lies below, and nothing of b
    assert 0.005 < found["a"].p < 0.02
