"""Each check on canaries' records that are made up: sound ones pass at any seed, and each kind of wrong one fails its check."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedtl.audit.canaries.conformance import Claim, between, conformance, final, likelihood
from fedtl.audit.canaries.log import CanaryPhase, ReleasedStatistics
from fedtl.audit.verdict import failed
from fedtl.training.loop import TrainingConfig

CLAIM = Claim(noise_multiplier=1.5, sample_rate=0.25, clip=2.0, records=80)
PLAIN = TrainingConfig(lr=0.1, momentum=0.9, weight_decay=0.01)


def stretch(seed, steps=20, count=400, training=PLAIN, noise=None, held=None, gain=1.0, round=1, coins=None):
    """What a sound phase would write down, or one with other noise, other samples or another clip."""
    rng = np.random.default_rng(seed)
    member = np.random.default_rng(1000 + (seed if coins is None else coins)).random(count) < 0.5
    sampled = (rng.random((steps, count)) < CLAIM.sample_rate) & member if held is None else held & member
    noise = CLAIM.noise_multiplier * rng.standard_normal((steps, count)) if noise is None else noise
    sums = gain * sampled + noise
    weight = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.SGD(
        [weight], lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    for row in sums:
        weight.grad = torch.tensor(row * CLAIM.clip / (CLAIM.sample_rate * CLAIM.records)).float()
        optimizer.step()
    return CanaryPhase(round, 0, sums, sampled, member, weight.detach().numpy().astype(float))


def red(run):
    return {check.name for check in failed(conformance("a", run, None, CLAIM, PLAIN, 4))}


@pytest.mark.parametrize("seed", range(40))
def test_sound_records_pass(seed):
    assert not red([stretch(seed), stretch(seed + 500, round=2, coins=seed)])


def test_p_values_of_sound_records_are_uniform():
    """Else the family's level would be another: what is computed over pairs or tails may only be larger."""
    for name in ("noise", "whiteness", "sensitivity", "absence"):
        values = [
            next(
                check.p
                for check in conformance("a", [stretch(seed)], None, CLAIM, PLAIN, 4)
                if check.name == name
            )
            for seed in range(100)
        ]
        assert kstest(values, "uniform", alternative="greater").pvalue > 1e-3, name


def test_noise_that_goes_on_in_the_next_step():
    rng = np.random.default_rng(0)
    fresh = rng.standard_normal((21, 400))
    noise = 1.5 * (fresh[1:] + 0.5 * fresh[:-1]) / np.sqrt(1.25)
    assert red([stretch(1, noise=noise)]) >= {"whiteness"}


def test_noise_of_another_law():
    noise = 1.5 * np.sqrt(3) * (2 * np.random.default_rng(0).random((20, 400)) - 1)
    assert red([stretch(1, noise=noise)]) == {"normality"}


def test_a_step_whose_noise_was_used_before():
    noise = 1.5 * np.random.default_rng(0).standard_normal((20, 400))
    noise[17] = noise[3]
    assert red([stretch(1, noise=noise)]) == {"repeats"}


def test_records_that_move_steps_which_did_not_sample_them():
    one = stretch(1)
    leaking = replace(one, sums=one.sums + 0.3 * one.member)
    assert red([leaking]) >= {"absence"}


def test_an_optimiser_whose_rate_falls():
    """Round 3 of 4 at (1 + cos(pi / 2)) / 2 of the rate."""
    half = stretch(1, training=replace(PLAIN, lr=0.05), round=3)
    falling = replace(PLAIN, schedule="cosine")
    assert not failed(conformance("a", [half], None, CLAIM, falling, 4))
    assert {check.name for check in failed(conformance("a", [half], None, CLAIM, PLAIN, 4))} == {"optimiser"}


def test_an_optimiser_that_is_given_something_else():
    one = stretch(1)
    assert red([replace(one, after=one.after * 1.01)]) == {"optimiser"}


@pytest.mark.parametrize(("gain", "words"), [(1.5, "more than the clip allows"), (0.5, "less than one clip")])
def test_a_clip_that_is_another(gain, words):
    found = failed(conformance("a", [stretch(1, gain=gain)], None, CLAIM, PLAIN, 4))
    assert [check.name for check in found] == ["sensitivity"]
    assert words in found[0].reason
    assert found[0].value == pytest.approx(gain, abs=0.15)


def test_a_rate_that_is_another():
    held = np.random.default_rng(0).random((20, 400)) < 0.35
    found = failed(conformance("a", [stretch(1, held=held)], None, CLAIM, PLAIN, 4))
    assert [check.name for check in found] == ["sampling"]
    assert "not 0.2500" in found[0].reason


def test_two_silos_with_one_noise():
    noise = 1.5 * np.random.default_rng(0).standard_normal((20, 400))
    runs = {"a": [stretch(1, noise=noise)], "b": [stretch(2)], "c": [stretch(3, noise=noise)]}
    assert [check.silo for check in failed(between(runs))] == ["a and c"]


def test_scores_tell_members_and_the_likelihood_tells_them_best():
    one = stretch(1, steps=60)
    every, last = likelihood([one], CLAIM), final([one])
    gaps = [(s[one.member].mean() - s[~one.member].mean()) / s.std() for s in (every, last)]
    assert gaps[0] > gaps[1] > 0.5


def released(seed, noise=1.0, clips=1.0, layers=(2.0, 5.0), count=400):
    """Two sub-releases by hand, of noise of so many clips."""
    rng, deviations = np.random.default_rng(seed), np.array(layers)
    member = rng.random(count) < 0.5
    sums = clips * member + noise * deviations[:, None] * rng.standard_normal((len(layers), count))
    return ReleasedStatistics(sums, deviations, member)


def of_statistics(its, sigma):
    claim = replace(CLAIM, statistics_noise=sigma)
    found = failed(conformance("a", [stretch(1)], its, claim, PLAIN, 4))
    return {check.name: check.reason for check in found}


def test_a_release_of_statistics_that_keeps_its_claim():
    sigma = (1 / 4 + 1 / 25) ** -0.5
    assert not any(of_statistics(released(seed), sigma) for seed in range(40))
    assert "0.9" in of_statistics(released(1), 1.1 * sigma)["noise on statistics"]
    assert "times the claimed" in of_statistics(released(1, noise=0.7), sigma)["noise on statistics"]
    assert "by 2.98" in of_statistics(released(1, clips=3.0), sigma)["sensitivity of statistics"]
    assert "no canaries" in of_statistics(None, sigma)["noise on statistics"]
    assert not of_statistics(None, None)
