"""What joining gained a site, against the paired t test of scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from fedtl.data.dataset import Dataset
from fedtl.data.prepare import EvaluationSet
from fedtl.deployment.site.joining import joining_gain
from fedtl.results.comparison import Verdict
from fedtl.tasks.classification import Classification


def scored(right, y):
    """Scores whose largest entry is the label where ``right``, and another class elsewhere."""
    answer = torch.where(right, y, (y + 1) % 3)
    return torch.nn.functional.one_hot(answer, 3).float()


@pytest.fixture
def rows():
    y = torch.arange(300) % 3
    return EvaluationSet(Dataset(torch.zeros(300, 1), y), torch.arange(300))


def right(share, seed):
    return torch.rand(300, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize(
    ("together", "alone", "verdict"),
    [(0.9, 0.6, Verdict.GAINS), (0.6, 0.9, Verdict.LOSES), (0.7, 0.68, Verdict.UNCLEAR)],
)
def test_the_interval_is_that_of_the_paired_t_test(rows, together, alone, verdict):
    one, other = right(together, 1), right(alone, 2)
    y = rows.test.y
    found = joining_gain("accuracy", 0.01, Classification(), scored(one, y), scored(other, y), rows, "here")
    difference = (one.double() - other.double()).numpy()
    test = stats.ttest_1samp(difference, 0.0)
    assert found.gain.mean == pytest.approx(difference.mean())
    assert found.gain.ci95 == pytest.approx(tuple(test.confidence_interval()), rel=1e-6)
    assert found.gain.p == pytest.approx(test.pvalue, rel=1e-6)
    assert found.gain.verdict == verdict
    assert str(verdict) in str(found)


def test_the_same_model_is_as_good_and_an_undefined_metric_gives_no_verdict(rows):
    scores = scored(right(0.8, 1), rows.test.y)
    same = joining_gain("accuracy", 0.01, Classification(), scores, scores.clone(), rows, "here")
    assert (same.gain.mean, same.gain.verdict) == (0.0, Verdict.AS_GOOD)
    broken = torch.full_like(scores, np.nan)
    assert joining_gain("accuracy", 0.01, Classification(), scores, broken, rows, "here") is None
