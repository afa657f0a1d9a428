"""Lower bounds from one run, against jax-privacy's own functions, and against the error rates that they claim."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedtl.audit.canaries.one_run import (
    MAX_EPSILON,
    SHARES,
    Guesses,
    bounds,
    fdp,
    fdp_p,
    fdp_refutes,
    gaussian,
    gaussian_curve,
    gaussian_epsilon,
    guess,
    steinke,
    steinke_p,
)
from fedtl.audit.power import detectable_epsilon
from fedtl.privacy.accounting import gaussian_mu
from fedtl.results.audit import DetectableEpsilon

POINTS = json.loads((Path(__file__).parent / "audit_points" / "one_run.json").read_text())["points"]


def drawn(mu, count, seed):
    """Scores of an exactly mu-GDP mechanism, and the coins."""
    rng = np.random.default_rng(seed)
    member = rng.random(count) < 0.5
    return mu * member + rng.standard_normal(count), member


def test_the_bounds_are_those_of_jax_privacy():
    """The file says how they were recorded. A bound above MAX_EPSILON is reported as MAX_EPSILON."""
    assert len(POINTS) >= 100
    for m, count, correct, significance, delta, expected_steinke, expected_fdp in POINTS:
        guesses = Guesses(m, count, correct)
        bound = steinke(guesses, delta, significance)
        assert bound == pytest.approx(min(expected_steinke, MAX_EPSILON), abs=0.005), guesses
        expected = 0.0 if expected_fdp <= 1e-3 else expected_fdp
        assert fdp(guesses, delta, significance) == pytest.approx(min(expected, MAX_EPSILON), abs=0.005), (
            guesses
        )


def test_on_pure_noise_at_most_21_of_200_runs_alarm_at_a_nominal_5_percent():
    alarms = {"steinke": 0, "fdp": 0, "gaussian": 0}
    for seed in range(200):
        scores, member = drawn(0.0, 200, seed)
        result = bounds(scores, member, 1e-5, 0.05, np.random.default_rng(seed))
        for name in alarms:
            alarms[name] += getattr(result, name) > 0
    assert all(count <= 21 for count in alarms.values()), alarms


def test_the_best_guesses_without_correction_for_their_number_alarm_too_often():
    """The mistake that dividing the significance avoids, so that the test above has something to detect."""
    alarms = 0
    for seed in range(200):
        scores, member = drawn(0.0, 1000, seed)
        results = guess(scores, member, np.random.default_rng(0))
        alarms += any(steinke_p(guesses, 0.0, 0.0) <= 0.05 for guesses in results)
    assert alarms > 21


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_a_sound_mechanism_is_hardly_ever_contradicted_and_a_bound_is_near(epsilon):
    """Distribution-free bounds err in at most 5 % of runs; of 40 runs 6 may (probability below 0.02)."""
    mu, wrong, results = gaussian_mu(epsilon, 1e-5), 0, []
    for seed in range(40):
        scores, member = drawn(mu, 1000, seed)
        result = bounds(scores, member, 1e-5, 0.05, np.random.default_rng(seed))
        wrong += max(result.steinke, result.fdp) > epsilon
        results.append((result.steinke, result.fdp, result.gaussian))
    assert wrong <= 6
    steinkes, fdps, gaussians = np.mean(results, axis=0)
    assert 0.15 * epsilon < steinkes < fdps < gaussians < epsilon


def test_ties_are_broken_at_random():
    """All excluded canaries of a mechanism without noise have score 0, whatever their order."""
    member = np.arange(1000) < 500
    assert guess(np.zeros(1000), member, np.random.default_rng(0))[-1].correct < 600
    assert guess(np.zeros(1000), ~member, np.random.default_rng(0))[-1].correct < 600


def test_a_mechanism_without_noise_is_contradicted():
    member = np.random.default_rng(0).random(1000) < 0.5
    result = bounds(member.astype(float), member, 1e-5, 0.05, np.random.default_rng(1))
    assert result.gaussian == MAX_EPSILON
    assert result.steinke > 4  # the most that 1000 canaries can show
    assert result.fdp > 5
    assert result.canaries == 1000


def test_the_number_of_guesses_is_fixed_in_advance():
    scores, member = drawn(1.0, 1000, 0)
    results = guess(scores, member, np.random.default_rng(0))
    assert [guesses.guesses for guesses in results] == [2 * int(1000 * share / 2) for share in SHARES]
    assert all(guesses.canaries == 1000 for guesses in results)
    order = np.argsort(scores)
    correct = [i for i in order[-10:] if member[i]] + [i for i in order[:10] if not member[i]]
    assert results[0].correct == len(correct)


def test_the_gaussian_bound_holds_about_as_often_as_it_says():
    mu = 1.2
    above = sum(
        gaussian(*drawn(mu, 1000, seed), 1e-5, 0.05) > gaussian_epsilon(mu, 1e-5) for seed in range(200)
    )
    assert 2 <= above <= 21
    drawn_few = (drawn(3.0, 7, seed) for seed in range(1000))
    above = sum(gaussian(*few, 1e-5, 0.05) > gaussian_epsilon(3.0, 1e-5) for few in drawn_few)
    assert above <= 1000 * 0.05


def test_epsilon_of_mu_undoes_mu_of_epsilon():
    for epsilon in (0.1, 1.0, 8.0, 40.0):
        assert gaussian_epsilon(gaussian_mu(epsilon, 1e-5), 1e-5) == pytest.approx(epsilon, abs=1e-6)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    assert gaussian_epsilon(-1.0, 1e-5) == 0.0
    assert gaussian_epsilon(30.0, 1e-5) == MAX_EPSILON


def test_a_detectable_epsilon_is_detected():
    """Of 60 runs with the detectable epsilon most are refuted; of 60 with the claimed one almost none."""
    claimed, delta = 1.0, 1e-5
    curve = gaussian_curve(gaussian_mu(claimed, delta))
    detectable = detectable_epsilon(1000, claimed, delta, curve, 0.05)
    assert claimed < detectable.fdp < detectable.steinke
    for epsilon, least, most in ((detectable.fdp, 48, 60), (claimed, 0, 6)):
        mu, refuted = gaussian_mu(epsilon, delta), 0
        for seed in range(60):
            scores, member = drawn(mu, 1000, seed)
            results = guess(scores, member, np.random.default_rng(seed))
            refuted += any(fdp_refutes(guesses, curve, 0.05 / len(SHARES)) for guesses in results)
        assert least <= refuted <= most


def test_too_few_canaries_detect_nothing():
    result = detectable_epsilon(10, 8.0, 1e-5, gaussian_curve(1.5), 1e-5)
    assert result == DetectableEpsilon(steinke=None, fdp=None)


def test_more_correct_guesses_never_mean_a_smaller_bound():
    for bound in (steinke, fdp):
        values = [bound(Guesses(500, 100, correct), 1e-5, 0.01) for correct in range(50, 101, 10)]
        assert values == sorted(values)
        assert values[-1] > values[0] == 0.0


def test_the_p_value_of_a_curve_is_where_its_refutation_begins():
    guesses, curve = Guesses(1000, 100, 95), gaussian_curve(0.5)
    p = fdp_p(guesses, curve)
    assert p < 0.05
    assert fdp_refutes(guesses, curve, p)
    assert not fdp_refutes(guesses, curve, p / 1.1)
    assert fdp_p(Guesses(1000, 100, 50), curve) == 1.0
