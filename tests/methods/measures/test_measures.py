"""CKA, LogME and H-score against their papers' formulas in numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group
from sklearn.cross_decomposition import CCA

from fedtl.methods.measures.cka import linear_cka
from fedtl.methods.measures.hscore import h_score
from fedtl.methods.measures.logme import logme

RNG = np.random.default_rng(0)


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def correlated(rows, first, second):
    common = RNG.normal(size=(rows, 2))
    return (
        common @ RNG.normal(size=(2, width)) + RNG.normal(size=(rows, width)) + 3 for width in (first, second)
    )


def test_cka_is_hsic_of_centred_kernels_normalised():
    x, y = correlated(30, 5, 7)
    centre = np.eye(30) - 1 / 30

    def hsic(a, b):
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre) / 29**2

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert 0.1 < expected < 0.9
    assert linear_cka(tensor(x), tensor(y)) == pytest.approx(expected, rel=1e-9)


def test_cka_ignores_rotation_scale_and_shift_but_not_other_linear_maps():
    x, _ = correlated(30, 5, 7)
    turned = 3 * x @ ortho_group.rvs(5, random_state=0) + 10
    assert linear_cka(tensor(x), tensor(turned)) == pytest.approx(1)
    assert linear_cka(tensor(x), tensor(x * [9, 1, 1, 1, 1])) < 0.95


def test_cka_flattens_maps_and_has_no_value_for_constant_ones():
    maps = torch.randn(9, 2, 3, 3)
    assert linear_cka(maps, maps.flatten(1)) == pytest.approx(1)
    assert np.isnan(linear_cka(maps, torch.full((9, 4), 0.1)))
    with pytest.raises(ValueError, match="same rows"):
        linear_cka(maps, maps[1:])


def largest_evidence(features, y):
    """The paper's integral has a closed form: labels are Gaussian with covariance I / beta + F F' / alpha."""
    rows = len(y)

    def loss(logs):
        alpha, beta = np.exp(logs)
        covariance = np.eye(rows) / beta + features @ features.T / alpha
        return -multivariate_normal(np.zeros(rows), covariance).logpdf(y) / rows

    return -minimize(loss, [0, 0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-11}).fun


@pytest.mark.parametrize("columns", [4, 25])
def test_logme_is_the_largest_evidence(columns):
    features = RNG.normal(size=(20, columns)) + 0.5
    values = features[:, 0] - 2 * features[:, 1] + RNG.normal(size=20)
    assert logme(tensor(features), tensor(values)) == pytest.approx(
        largest_evidence(features, values), abs=1e-6
    )
    labels = (values > 0) + 2 * (features[:, 2] > 1)
    every = [largest_evidence(features, (labels == one) * 1.0) for one in np.unique(labels)]
    assert logme(tensor(features), tensor(labels).long()) == pytest.approx(np.mean(every), abs=1e-6)


def test_logme_ranks_features_by_what_they_say_and_has_no_value_without_a_question():
    labels = torch.arange(60) % 3
    good = torch.nn.functional.one_hot(labels).double() + 0.3 * torch.randn(60, 3)
    assert logme(good, labels) > logme(torch.randn(60, 3), labels)
    assert np.isnan(logme(good, torch.zeros(60).long()))
    assert np.isnan(logme(good[:0], labels[:0]))


def test_h_score_is_the_paper_s_trace_and_the_sum_of_squared_canonical_correlations():
    labels = np.arange(80) % 4
    features = np.eye(4)[labels] @ RNG.normal(size=(4, 3)) + RNG.normal(size=(80, 3))
    means = np.array([features[labels == label].mean(0) for label in labels])
    expected = np.trace(np.linalg.inv(np.cov(features.T, ddof=0)) @ np.cov(means.T, ddof=0))
    assert h_score(tensor(features), tensor(labels)) == pytest.approx(expected, rel=1e-9)
    one_hot = np.eye(4)[labels][:, :3]
    left, right = CCA(3, max_iter=5000, tol=1e-12).fit_transform(features, one_hot)
    correlations = [np.corrcoef(left[:, at], right[:, at])[0, 1] for at in range(3)]
    assert expected == pytest.approx(np.square(correlations).sum(), rel=1e-4)


def test_h_score_leaves_out_directions_that_do_not_vary():
    labels = torch.arange(30) % 3
    features = torch.randn(30, 2, dtype=torch.float64)
    repeated = torch.cat([features, features[:, :1], torch.ones(30, 1)], 1)
    assert h_score(repeated, labels) == pytest.approx(h_score(features, labels))
    assert np.isnan(h_score(features, torch.ones(30).long()))


def test_h_score_has_no_value_where_any_labels_fit():
    """With N <= D + 1 rows in general position it would be the number of classes less one, whatever the labels."""
    features, labels = torch.randn(12, 11, dtype=torch.float64), torch.arange(12) % 3
    assert np.isnan(h_score(features, labels))
    assert h_score(features[:, :10], labels) < 2
