"""
The trade-off curve of a schedule, compared with the law of the Gaussian mechanism, integrals by scipy, and simulated
tests.
"""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from fedtl.audit.canaries.one_run import Guesses, fdp_p, fdp_refutes, gaussian_curve, guess
from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import epsilon, gaussian_mu, smallest_deltas
from fedtl.privacy.tradeoff import gdp_mu, trade_off

DELTA = 1e-5
SAMPLED = [(5.753, 0.32, 160), (1.0, 0.12, 36), (0.6, 0.01, 2000)]


def plan(noise, rate, steps):
    return [SpendEvent(noise, rate, steps)]


def gaussian_delta(mu, at):
    """Balle and Wang (2018), theorem 8."""
    return norm.cdf(mu / 2 - at / mu) - np.exp(at) * norm.cdf(-mu / 2 - at / mu)


def scores(noise, rate, steps, member, rng):
    """The log-likelihood ratio of each record's noisy sums over all steps: the most powerful test."""
    held = (rng.random((steps, len(member))) < rate) & member
    sums = held + noise * rng.standard_normal((steps, len(member)))
    return np.log1p(rate * np.expm1((sums - 0.5) / noise**2)).sum(0)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (8.0, 4), (5.0, 100), (0.5, 3)])
def test_full_batches_are_exactly_gaussian(noise, steps):
    mu = np.sqrt(steps) / noise
    curve = trade_off(plan(noise, 1.0, steps))
    assert gdp_mu(plan(noise, 1.0, steps), DELTA) == pytest.approx(mu, rel=1e-5)
    for alarms in (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9):
        found = curve.max_tpr(alarms)
        assert found == pytest.approx(ndtr(ndtri(alarms) + mu), rel=1e-4)
        assert curve.min_fpr(found) == pytest.approx(alarms, rel=1e-9)


@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.3), (2.0, 0.01), (1.0, 0.9)])
def test_one_sampled_step_is_an_integral(noise, rate):
    """With the record, a step's sum is a mixture of two normal distributions, without it one of them."""

    far = 12 * noise + 1

    def without(x):
        return norm.pdf(x, 0, noise)

    def with_it(x):
        return (1 - rate) * norm.pdf(x, 0, noise) + rate * norm.pdf(x, 1, noise)

    def crossing(ratio):
        """Where one density is this many times the other."""
        if ratio <= 1 - rate:
            return -far
        return float(np.clip(0.5 + noise**2 * np.log((ratio - 1 + rate) / rate), -far, far))

    def exact(at):
        above = quad(lambda x: with_it(x) - np.exp(at) * without(x), crossing(np.exp(at)), far, limit=500)[0]
        below = quad(lambda x: without(x) - np.exp(at) * with_it(x), -far, crossing(np.exp(-at)), limit=500)[
            0
        ]
        return max(above, below)

    epsilons = np.linspace(0, epsilon(plan(noise, rate, 1), 1e-6), 40)
    integrals = np.array([exact(at) for at in epsilons])
    ours = smallest_deltas(plan(noise, rate, 1), epsilons)
    np.testing.assert_allclose(ours, integrals, atol=1e-6)
    assert (ours >= integrals - 1e-9).all()
    curve = trade_off(plan(noise, rate, 1))
    for alarms in (1e-3, 0.01, 0.1, 0.5):
        # Every epsilon and delta bounds what is found, from two sides; the curve is the best of all of them.
        one = (alarms * np.exp(epsilons) + integrals).min()
        other = (1 - (1 - integrals - alarms) * np.exp(-epsilons)).min()
        assert curve.max_tpr(alarms) <= min(one, other) + 1e-5
        assert curve.max_tpr(alarms) >= min(one, other) - 2e-3  # 40 epsilons are few
        # The strongest test takes sums above a threshold for those with the record: no better than the curve.
        threshold = norm.isf(alarms, 0, noise)
        assert curve.max_tpr(alarms) >= (1 - rate) * alarms + rate * norm.sf(threshold, 1, noise) - 1e-8


@pytest.mark.parametrize(("noise", "rate", "steps"), SAMPLED[:2])
def test_no_simulated_attack_exceeds_the_curve_and_the_best_is_near_it(noise, rate, steps):
    rng, count, alarms = np.random.default_rng(3), 40_000, 0.01
    member = np.arange(count) < count // 2
    found = scores(noise, rate, steps, member, rng)
    threshold = np.quantile(found[~member], 1 - alarms)
    hits = int((found[member] > threshold).sum())
    allowed = trade_off(plan(noise, rate, steps)).max_tpr(alarms)
    # The threshold is a quantile of 20,000 numbers: its own rate is 1 % within 0.2 points.
    more, less = (trade_off(plan(noise, rate, steps)).max_tpr(at) for at in (alarms + 0.002, alarms - 0.002))
    assert hits <= binom.ppf(1 - 1e-6, count // 2, more)
    assert hits >= binom.ppf(1e-6, count // 2, 0.8 * less)
    assert allowed > alarms


@pytest.mark.parametrize(("noise", "rate", "steps"), SAMPLED)
def test_gdp_mu_is_the_smallest_that_covers_the_schedule(noise, rate, steps):
    its = plan(noise, rate, steps)
    mu, end, curve = gdp_mu(its, DELTA), epsilon(its, DELTA), trade_off(its)
    epsilons = np.linspace(0, end, 50)
    kept = smallest_deltas(its, epsilons)
    assert (kept <= gaussian_delta(mu, epsilons) * (1 + 1e-6)).all()
    assert (kept > gaussian_delta(0.99 * mu, epsilons)).any()
    for alarms in (1e-3, 0.01, 0.1, 0.5, 0.9):
        assert curve.max_tpr(alarms) <= ndtr(ndtri(alarms) + mu) + DELTA


def test_epsilon_and_delta_alone_allow_more_than_the_schedule():
    """Kairouz et al. (2015) for the one point: printed earlier, and more than the schedule allows."""
    its = plan(5.753, 0.32, 160)
    end, alarms = epsilon(its, DELTA), 0.01
    point = np.exp(end) * alarms + DELTA
    assert 0.04 < trade_off(its).max_tpr(alarms) < 0.07
    assert point > 3 * trade_off(its).max_tpr(alarms)


def test_invalid_events_are_refused():
    assert gdp_mu([], DELTA) == pytest.approx(0.0, abs=1e-11)
    assert trade_off([]).max_tpr(0.01) == pytest.approx(0.01, abs=1e-11)


def test_sampled_schedule_is_not_refuted_for_not_being_gaussian():
    """
    At few false positives, a sampled schedule allows more than the Gaussian mechanism of its epsilon and delta.
    There are guesses that contradict the Gaussian, at an audit's level, and not the schedule.
    """
    its, level = plan(0.7, 0.01, 20), 1e-6
    curve, mu = trade_off(its), gaussian_mu(epsilon(its, DELTA), DELTA)
    assert curve.max_tpr(1e-9) > 3 * ndtr(ndtri(1e-9) + mu)
    between = [
        correct
        for correct in range(101)
        if fdp_refutes(Guesses(1000, 100, correct), gaussian_curve(mu), level)
        and not fdp_refutes(Guesses(1000, 100, correct), curve.min_fpr, level)
    ]
    assert between


@pytest.mark.parametrize(("noise", "rate", "steps"), [(5.753, 0.32, 160), (1.0, 1.0, 1), (1.0, 0.12, 36)])
def test_sound_mechanisms_are_refuted_no_more_often_than_the_level(noise, rate, steps):
    """
    One-run audits of sound mechanisms with exact scores, no training, at a nominal 5 %, corrected for several
    looks. A mechanism with a third of the noise is refuted most of the time, so the test has power.
    """
    runs, canaries, level = 200, 400, 0.05
    curve = trade_off(plan(noise, rate, steps))
    refuted = {1.0: 0, 3.0: 0}
    for less in refuted:
        for seed in range(runs if less == 1 else 20):
            rng = np.random.default_rng(seed)
            member = rng.random(canaries) < 0.5
            found = scores(noise / less, rate, steps, member, rng)
            seen = guess(found, member, rng)
            refuted[less] += min(fdp_p(look, curve.min_fpr) for look in seen) * len(seen) <= level
    assert refuted[1.0] <= binom.ppf(0.999, runs, level)
    assert refuted[3.0] >= 10
