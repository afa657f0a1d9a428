"""Mixes of models against numpy, and their choice against scipy's paired t test."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import Choose, choose_mix, kept, mixed_scores, mixes
from fedtl.models.mixed import MixedNet
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.tasks.regression import REGRESSION


def test_the_plain_mean_comes_first_and_every_mix_once():
    assert mixes(1) == [(1.0,)]
    assert mixes(2) == [(0.5, 0.5), (0.0, 1.0), (0.25, 0.75), (0.75, 0.25), (1.0, 0.0)]
    for count in (2, 3, 4):
        assert len(mixes(count)) == len(set(mixes(count)))
        assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in mixes(count))


def test_the_scores_of_a_mix_are_logarithms_of_mean_probabilities():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 5, (2, 6, 3)).astype(np.float32)
    wanted = np.log(0.25 * special.softmax(a, 1) + 0.75 * special.softmax(b, 1))
    scores = mixed_scores([torch.from_numpy(a), torch.from_numpy(b)], (0.25, 0.75), CLASSIFICATION)
    np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-5)
    values = mixed_scores([torch.from_numpy(a), torch.from_numpy(b)], (0.25, 0.75), REGRESSION)
    np.testing.assert_allclose(values.numpy(), 0.25 * a + 0.75 * b, atol=1e-5)
    alone = torch.from_numpy(a)
    assert mixed_scores([alone, torch.from_numpy(b)], (1.0, 0.0), CLASSIFICATION) is alone
    far = mixed_scores([torch.tensor([[500.0, -500.0]])] * 2, (0.5, 0.5), CLASSIFICATION)
    assert far.isfinite().all()


@pytest.mark.parametrize("task", [CLASSIFICATION, REGRESSION])
def test_the_exported_module_is_the_mix(task):
    nets = [torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)]
    x = torch.randn(5, 4)
    wanted = mixed_scores([net(x) for net in nets], (0.25, 0.75), task)
    torch.testing.assert_close(MixedNet(nets, (0.25, 0.75), task)(x), wanted)


@given(st.integers(2, 40), st.integers(2, 6), st.floats(0, 2), st.integers(0, 9999))
def test_another_mix_is_taken_if_a_paired_t_test_says_so(rows, count, shift, seed):
    losses = np.random.default_rng(seed).normal(size=(count, rows))
    losses[-1] -= shift
    best = int(losses.mean(1).argmin())
    better = best and stats.ttest_rel(losses[0], losses[best], alternative="greater").pvalue < 0.025
    assert choose_mix(list(torch.from_numpy(losses))) == (best if better else 0)


def test_equal_candidates_are_rarely_told_apart():
    """The share of silos that leave the plain mean where no mix is better, with a choice among five."""
    rng = np.random.default_rng(1)
    left = [choose_mix(list(torch.from_numpy(rng.normal(size=(5, 30))))) != 0 for _ in range(500)]
    assert np.mean(left) < 4 * 0.025 + 3 * np.sqrt(0.1 * 0.9 / 500)


def cross_validated(losses):
    """The choice by scipy's test on what each row gains by the mix that is the best of all other rows."""
    others = losses.sum(1, keepdims=True) - losses
    gain = losses[0] - losses[others.argmin(0), np.arange(losses.shape[1])]
    best = int(losses.mean(1).argmin())
    better = gain.any() and stats.ttest_1samp(gain, 0, alternative="greater").pvalue < 0.025
    return best if better else 0


@pytest.mark.parametrize("rows", [5, 10, 20, 30])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_leaving_each_row_out_in_turn_hardly_changes_the_choice(rows, shift):
    """Two models whose log odds of the right class are normal, the second better by ``shift``."""
    rng, same = np.random.default_rng(0), []
    for _ in range(100):
        a, b = special.expit(rng.normal([[1.5], [1.5 + shift]], 2, (2, rows)))
        losses = -np.log(np.stack([one * a + other * b for one, other in mixes(2)]))
        same.append(choose_mix(list(torch.from_numpy(losses))) == cross_validated(losses))
    assert np.mean(same) >= 0.98


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_give_the_plain_mean(rows):
    assert choose_mix([torch.ones(rows), torch.zeros(rows)]) == 0
    assert choose_mix([torch.full((5,), torch.nan), torch.zeros(5)]) == 0


def test_a_candidate_is_named_once():
    with pytest.raises(ValueError, match="only once"):
        Choose(("own", "own"))


def test_the_models_before_and_after_tuning_both_take_part_unless_a_paired_t_test_tells_them_apart():
    rng = np.random.default_rng(3)
    before, noise = rng.exponential(size=25), rng.normal(size=25)
    for shift in (-0.6, -0.3, 0.0, 0.3, 0.6):
        losses = {
            Candidate.OWN: torch.zeros(25),
            Candidate.SHARED: torch.from_numpy(before),
            Candidate.TUNED: torch.from_numpy(before + shift + noise),
        }
        expected = list(losses)
        for worse, better in ((Candidate.SHARED, Candidate.TUNED), (Candidate.TUNED, Candidate.SHARED)):
            if stats.ttest_rel(losses[worse], losses[better], alternative="greater").pvalue < 0.025:
                expected.remove(worse)
        assert kept(losses) == expected


@pytest.mark.parametrize("rows", [[], [1.0], [1.0, float("nan")]])
def test_without_two_finite_validation_rows_every_candidate_takes_part(rows):
    losses = {name: torch.tensor(rows) for name in (Candidate.OWN, Candidate.SHARED, Candidate.TUNED)}
    losses[Candidate.TUNED] = losses[Candidate.TUNED] + 5
    assert kept(losses) == list(losses)


def test_a_model_that_tuning_did_not_change_takes_part_once():
    same = torch.rand(9)
    losses = {Candidate.OWN: torch.zeros(9), Candidate.SHARED: same, Candidate.TUNED: same}
    assert kept(losses) == [Candidate.OWN, Candidate.TUNED]


def test_one_of_the_two_alone_takes_part():
    losses = {Candidate.OWN: torch.zeros(9), Candidate.TUNED: torch.ones(9)}
    assert kept(losses) == list(losses)
