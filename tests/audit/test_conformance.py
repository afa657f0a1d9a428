"""The checks of canaries on simulated records: sound ones pass with any seed, and each kind of fault fails its own check."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedtl.audit.canaries.conformance import final_scores, likelihood_scores, noise_conformance, shared_noise
from fedtl.audit.canaries.log import CanaryPhase, ReleasedStatistics
from fedtl.audit.verdict import failed
from fedtl.results.privacy import SiloPrivacy
from fedtl.training.loop import TrainingConfig

CLAIM = SiloPrivacy(
    epsilon=8.0,
    delta=1e-5,
    epsilon_replace_one=16.0,
    unit="record",
    adjacency="zero-out",
    units=80,
    clip=2.0,
    noise_multiplier=1.5,
    sample_rate=0.25,
    steps_a_round=20,
    rounds=4,
    **dict.fromkeys(["metric_noise", "metric_expected_noise"]),
    **dict.fromkeys(["statistics_noise", "statistics_expected_noise"]),
)
PLAIN = TrainingConfig(lr=0.1, momentum=0.9, weight_decay=0.01)


def phase(seed, steps=20, count=400, training=PLAIN, noise=None, held=None, gain=1.0, round=1, coins=None):
    """What a sound phase records, or one with other noise, other samples or another clip."""
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
        weight.grad = torch.tensor(row * CLAIM.clip / (CLAIM.sample_rate * CLAIM.units)).float()
        optimizer.step()
    return CanaryPhase(round, 0, sums, sampled, member, weight.detach().numpy().astype(float))


def red(run):
    return {check.name for check in failed(noise_conformance("a", run, None, CLAIM, PLAIN))}


@pytest.mark.parametrize("seed", range(40))
def test_sound_records_pass(seed):
    assert not red([phase(seed), phase(seed + 500, round=2, coins=seed)])


def test_p_values_of_sound_records_are_uniform():
    """Otherwise the level of the whole audit would be wrong; p-values over pairs or tails may only be larger."""
    runs = [
        {check.name: check.p for check in noise_conformance("a", [phase(seed)], None, CLAIM, PLAIN)}
        for seed in range(100)
    ]
    for name in ("noise", "whiteness", "sensitivity", "absence"):
        values = [p_values[name] for p_values in runs]
        assert kstest(values, "uniform", alternative="greater").pvalue > 1e-3, name


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (1, 40), (3, 3), (20, 6)])
def test_few_canaries_refute_no_sound_run(steps, count):
    """With none or one outside the run, all correlations are 1 or not defined; and one count can be its own mean."""
    for seed in range(12):
        one, other = phase(seed, steps, count), phase(seed + 500, steps, count)
        checks = noise_conformance("a", [one], None, CLAIM, PLAIN) + shared_noise({"a": [one], "b": [other]})
        assert not failed(checks), seed


def test_noise_that_is_correlated_with_the_next_step():
    rng = np.random.default_rng(0)
    fresh = rng.standard_normal((21, 400))
    noise = 1.5 * (fresh[1:] + 0.5 * fresh[:-1]) / np.sqrt(1.25)
    assert red([phase(1, noise=noise)]) >= {"whiteness"}


def test_noise_of_another_law():
    noise = 1.5 * np.sqrt(3) * (2 * np.random.default_rng(0).random((20, 400)) - 1)
    assert red([phase(1, noise=noise)]) == {"normality"}


def test_a_step_with_the_noise_of_another_step():
    noise = 1.5 * np.random.default_rng(0).standard_normal((20, 400))
    noise[17] = noise[3]
    assert red([phase(1, noise=noise)]) == {"repeats"}


def test_records_that_change_steps_which_did_not_sample_them():
    sound = phase(1)
    leaking = replace(sound, sums=sound.sums + 0.3 * sound.member)
    assert red([leaking]) >= {"absence"}


def test_an_optimiser_whose_rate_falls():
    """Round 3 of 4 at (1 + cos(pi / 2)) / 2 of the rate."""
    half = phase(1, training=replace(PLAIN, lr=0.05), round=3)
    falling = replace(PLAIN, schedule="cosine")
    assert not failed(noise_conformance("a", [half], None, CLAIM, falling))
    assert {check.name for check in failed(noise_conformance("a", [half], None, CLAIM, PLAIN))} == {
        "optimiser"
    }


def test_an_optimiser_that_did_not_get_the_noisy_sums():
    sound = phase(1)
    assert red([replace(sound, after=sound.after * 1.01)]) == {"optimiser"}


@pytest.mark.parametrize(("gain", "words"), [(1.5, "more than"), (0.5, "less than")])
def test_another_clip(gain, words):
    violations = failed(noise_conformance("a", [phase(1, gain=gain)], None, CLAIM, PLAIN))
    assert [check.name for check in violations] == ["sensitivity"]
    assert words in violations[0].reason
    assert violations[0].value == pytest.approx(gain, abs=0.15)


def test_another_sample_rate():
    held = np.random.default_rng(0).random((20, 400)) < 0.35
    violations = failed(noise_conformance("a", [phase(1, held=held)], None, CLAIM, PLAIN))
    assert [check.name for check in violations] == ["sampling"]
    assert "not 0.2500" in violations[0].reason


def test_two_silos_with_the_same_noise():
    noise = 1.5 * np.random.default_rng(0).standard_normal((20, 400))
    runs = {"a": [phase(1, noise=noise)], "b": [phase(2)], "c": [phase(3, noise=noise)]}
    assert [check.silo for check in failed(shared_noise(runs))] == ["a and c"]


def test_scores_tell_members_and_the_likelihood_tells_them_best():
    sound = phase(1, steps=60)
    every, last = likelihood_scores([sound], CLAIM), final_scores([sound])
    gaps = [(s[sound.member].mean() - s[~sound.member].mean()) / s.std() for s in (every, last)]
    assert gaps[0] > gaps[1] > 0.5


def released(seed, noise=1.0, clips=1.0, layers=(2.0, 5.0), count=400):
    """Two sub-releases with noise of this many clips."""
    rng, deviations = np.random.default_rng(seed), np.array(layers)
    member = rng.random(count) < 0.5
    sums = clips * member + noise * deviations[:, None] * rng.standard_normal((len(layers), count))
    return ReleasedStatistics(sums, deviations, member)


def statistics_violations(statistics, sigma):
    claim = replace(CLAIM, statistics_noise=sigma)
    violations = failed(noise_conformance("a", [phase(1)], statistics, claim, PLAIN))
    return {check.name: check.reason for check in violations}


def test_a_release_of_statistics_that_keeps_its_claim():
    sigma = (1 / 4 + 1 / 25) ** -0.5
    assert not any(statistics_violations(released(seed), sigma) for seed in range(40))
    assert "0.9" in statistics_violations(released(1), 1.1 * sigma)["noise on statistics"]
    assert "times the claimed" in statistics_violations(released(1, noise=0.7), sigma)["noise on statistics"]
    assert "by 2.98" in statistics_violations(released(1, clips=3.0), sigma)["sensitivity of statistics"]
    assert "without canaries" in statistics_violations(None, sigma)["noise on statistics"]
    assert not statistics_violations(None, None)
