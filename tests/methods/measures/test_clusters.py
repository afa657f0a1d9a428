"""The agreement of a model's answers with clusters of its features."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import contingency
from sklearn.datasets import make_blobs

from fedtl.methods.measures import clusters
from fedtl.methods.measures.clusters import cluster_agreement

ROWS, CLASSES = 90, 3


@pytest.fixture(scope="module")
def blobs():
    centres = 20 * np.eye(CLASSES, 4)
    x, y = make_blobs(ROWS, centers=centres, random_state=0)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def expected_information(rows, columns, n):
    """E[MI] of two divisions with these sizes, summed over the hypergeometric law (Vinh, Epps and Bailey, 2010)."""
    total = 0.0
    for a in rows:
        for b in columns:
            for k in range(max(1, a + b - n), min(a, b) + 1):
                p = math.comb(int(b), k) * math.comb(int(n - b), int(a - k)) / math.comb(int(n), int(a))
                total += p * k / n * math.log(n * k / (a * b))
    return total


def test_it_is_the_mutual_information_adjusted_for_chance(blobs):
    x, y = blobs
    answers = y.clone()
    answers[:30] = torch.arange(30) % CLASSES
    table = contingency.crosstab(answers.numpy(), y.numpy()).count
    n, rows, columns = table.sum(), table.sum(1), table.sum(0)
    p = table / n
    information = np.nansum(p * np.log(np.where(p > 0, p, np.nan) * n * n / np.outer(rows, columns)))
    entropy = np.mean([-(s / n * np.log(s / n)).sum() for s in (rows, columns)])
    by_chance = expected_information(rows, columns, n)
    wanted = (information - by_chance) / (entropy - by_chance)
    assert cluster_agreement(x, answers, CLASSES) == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_it_is_1_for_the_clusters_and_0_for_one_answer_and_names_of_classes_do_not_matter(blobs):
    x, y = blobs
    assert cluster_agreement(x, y, CLASSES) == pytest.approx(1)
    assert cluster_agreement(x, (y + 1) % CLASSES, CLASSES) == pytest.approx(1)
    assert cluster_agreement(x, torch.zeros_like(y), CLASSES) == 0
    assert cluster_agreement(torch.ones_like(x), torch.zeros_like(y), CLASSES) == 0
    shuffled = y[torch.from_numpy(np.random.default_rng(0).permutation(ROWS))]
    assert abs(cluster_agreement(x, shuffled, CLASSES)) < 0.05


def test_too_few_rows_and_features_that_are_not_finite_have_none(blobs):
    x, y = blobs
    assert math.isnan(cluster_agreement(x[:2], y[:2], CLASSES))
    assert math.isnan(cluster_agreement(x * float("inf"), y, CLASSES))


def test_of_many_rows_it_takes_evenly_spaced_ones(blobs, monkeypatch):
    x, y = blobs
    monkeypatch.setattr(clusters, "ROWS", 9)
    kept = np.linspace(0, ROWS - 1, 9).astype(int)
    answers = torch.arange(ROWS) % CLASSES
    answers[kept] = y[kept]
    assert cluster_agreement(x, answers, CLASSES) == pytest.approx(1)
