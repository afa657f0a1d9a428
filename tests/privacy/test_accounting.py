"""
Compared with Opacus' accountant, which shares no code with ours, with the law of the Gaussian mechanism, and with
recorded numbers.
"""

import math

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedtl.errors import ConfigError
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.accounting import (
    add_costs,
    calibrate,
    default_delta,
    epsilon,
    gaussian_mu,
    merge_events,
    statistics_noise,
)
from fedtl.privacy.prv import EPSILON_ERROR, prv_epsilon, understated

DELTA = 1e-5


def gaussian(mu, delta=DELTA):
    """Balle and Wang (2018), theorem 8, for sensitivity over noise mu, solved for epsilon."""

    def excess(epsilon):
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return brentq(excess, 0, 500)


@pytest.mark.parametrize(
    "events",
    [
        [(2.0, 0.125, 96)],
        [(1.0, 0.01, 2000)],
        [(0.8, 0.01, 20_000)],
        [(1.0, 0.001, 100_000)],
        [(1.0, 0.0001, 1_000_000)],
        [(50.0, 0.01, 2000)],
        [(4.0, 0.3, 500), (3.0, 0.1, 40)],
        [(1.1, 0.02, 300), (6.0, 1.0, 1)],
    ],
)
def test_epsilon_equals_opacus_prv(events):
    """Both are upper bounds, and ours is nearer to the true value."""
    ours = [SpendEvent(*event) for event in events]
    found, theirs = epsilon(ours, DELTA), prv_epsilon(ours, DELTA)
    assert found <= theirs + 1e-3
    assert theirs == pytest.approx(found, abs=EPSILON_ERROR)
    assert not understated(found, theirs)
    assert understated(found - 2 * EPSILON_ERROR, theirs)
    assert not understated(found + 1, theirs)


@pytest.mark.parametrize(
    ("events", "delta"),
    [([], DELTA), ([SpendEvent(0.01, 1.0, 1)], DELTA), ([SpendEvent(0.3, 0.3, 500)], DELTA), ([SpendEvent(1.0, 0.1, 5)], 1e-12)],
)  # fmt: skip
def test_prv_epsilon_may_be_none(events, delta):
    assert prv_epsilon(events, delta) is None
    assert not understated(0.0, None)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (5.0, 20), (0.5, 4), (100.0, 3), (0.05, 1)])
def test_full_batches_are_a_gaussian_mechanism(noise, steps):
    exact = gaussian(math.sqrt(steps) / noise)
    found = epsilon([SpendEvent(noise, 1.0, steps)], DELTA)
    assert exact - 1e-6 <= found <= exact + 1e-3


def test_recorded_numbers():
    """
    Measured with another program before this one was written; replace-one adjacency of a full batch doubles the
    sensitivity.
    """
    event = SpendEvent(2.0, 0.125, 96)
    assert epsilon([event], DELTA) == pytest.approx(2.92, abs=0.01)
    assert epsilon([event], DELTA, replace_one=True) == pytest.approx(5.52, abs=0.01)
    assert epsilon([SpendEvent(4.0, 1.0, 3)], DELTA, replace_one=True) == pytest.approx(
        gaussian(2 * math.sqrt(3) / 4), abs=1e-3
    )


def test_rounds_cost_what_their_steps_cost_together():
    rounds = [SpendEvent(2.0, 0.125, 8)] * 12
    assert epsilon(rounds, DELTA) == epsilon([SpendEvent(2.0, 0.125, 96)], DELTA)
    assert merge_events([SpendEvent(3.0, 1.0, 1), *rounds]) == (
        SpendEvent(2.0, 0.125, 96),
        SpendEvent(3.0, 1.0, 1),
    )


def test_a_step_is_computed_once_a_study_and_the_cost_is_that_of_the_librarys_accountant():
    """The accountant of dp-accounting composes the same events; equal bits, because a ledger is verified by computing again."""
    accounting._one_step.cache_clear()
    for steps in (300, 301, 700):  # of one grid
        accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, accounting.GRID_WIDTH)
        accountant.compose(PoissonSampledDpEvent(0.25, GaussianDpEvent(2.5)), steps)
        accountant.compose(GaussianDpEvent(9.0), 3)
        events = [SpendEvent(2.5, 0.25, steps), SpendEvent(9.0, 1.0, 3)]
        assert epsilon(events, 1e-3) == accountant.get_epsilon(1e-3)
    assert (accounting._one_step.cache_info().misses, accounting._one_step.cache_info().hits) == (1, 2)


def test_rounds_of_a_plan_are_computed_from_one_step():
    """On the plan's grid; on grids of their own, which become wider from round to round, each would need another step."""
    accounting._one_step.cache_clear()
    plan = [SpendEvent(5.0, 0.3, 80)]
    costs = [epsilon([SpendEvent(5.0, 0.3, 4 * rounds)], DELTA, plan=plan) for rounds in range(1, 21)]
    assert accounting._one_step.cache_info().misses == 1
    assert costs == sorted(costs)
    assert costs[-1] == epsilon(plan, DELTA)


@settings(max_examples=6, deadline=None)
@given(
    noise=st.floats(1, 20),
    rate=st.floats(0.05, 1),
    rounds=st.integers(2, 60),
    share=st.floats(0, 1),
    released=st.booleans(),
)
def test_a_part_of_a_plan_costs_less_than_the_plan_and_what_it_costs_alone(
    noise, rate, rounds, share, released
):
    fixed = [SpendEvent(9.0, 1.0, 1)] if released else []
    part = [*fixed, SpendEvent(noise, rate, 3 * max(1, round(share * rounds)))]
    plan = [*fixed, SpendEvent(noise, rate, 3 * rounds)]
    found = epsilon(part, DELTA, plan=plan)
    assert found <= epsilon(plan, DELTA)
    assert found == pytest.approx(epsilon(part, DELTA), rel=2e-4, abs=5e-5)


@pytest.mark.parametrize("steps", [1, 20, 399])
def test_a_part_of_a_plan_of_full_batches_never_costs_less_than_the_gaussian_mechanism(steps):
    found = epsilon([SpendEvent(20.0, 1.0, steps)], DELTA, plan=[SpendEvent(20.0, 1.0, 400)])
    assert gaussian(math.sqrt(steps) / 20) - 1e-9 <= found <= gaussian(math.sqrt(steps) / 20) + 1e-3


def test_no_events_cost_nothing():
    assert epsilon([], DELTA) == 0
    assert epsilon([], DELTA, plan=[]) == 0
    assert add_costs([]) == (0, 0)


@settings(max_examples=2, deadline=None)
@given(
    noise=st.floats(2, 20),
    rate=st.floats(0.1, 1),  # one cost takes seconds where little noise meets a low rate
    steps=st.integers(5, 100),
    more=st.floats(1.1, 3),
)
def test_less_noise_or_more_steps_cost_more(noise, rate, steps, more):
    _check_that_less_costs_less(noise, rate, steps, more)


@pytest.mark.nightly
@settings(max_examples=40, deadline=None)
@given(noise=st.floats(0.5, 20), rate=st.floats(0.001, 1), steps=st.integers(1, 400), more=st.floats(1.1, 3))
def test_less_noise_or_more_steps_cost_more_in_a_wide_range(noise, rate, steps, more):
    _check_that_less_costs_less(noise, rate, steps, more)


def _check_that_less_costs_less(noise, rate, steps, more):
    cost = epsilon([SpendEvent(noise, rate, steps)], DELTA)
    slack = cost * (1 + 1e-3) + 1e-3
    assert epsilon([SpendEvent(noise * more, rate, steps)], DELTA) <= slack
    assert epsilon([SpendEvent(noise, rate / more, steps)], DELTA) <= slack
    assert epsilon([SpendEvent(noise, rate, steps)], DELTA * more) <= slack
    assert cost <= epsilon([SpendEvent(noise, rate, math.ceil(steps * more))], DELTA) * (1 + 1e-3) + 1e-3
    assert cost <= epsilon([SpendEvent(noise, rate, steps)], DELTA, replace_one=True) + 1e-3


@pytest.mark.parametrize("target", [0.05, 1.0, 8.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.125, 96), (1.0, 4), (0.01, 1000)])
@pytest.mark.parametrize("statistics", [False, True])
def test_calibrated_noise_reaches_the_target_and_not_more(target, rate, steps, statistics):
    fixed = [SpendEvent(statistics_noise(target, DELTA), 1.0, 1)] if statistics else []
    noise = calibrate(target, DELTA, rate, steps, fixed)
    assert 0.99 * target <= epsilon([*fixed, SpendEvent(noise, rate, steps)], DELTA) <= target


@pytest.mark.parametrize(
    ("target", "rate", "steps", "released"),
    [(8.0, 0.4, 61, False), (0.3, 1.0, 5, False), (1.0, 0.1, 97, True), (1e4, 1.0, 3, False)],
)
def test_guesses_change_the_number_of_costs_and_not_the_noise(target, rate, steps, released, monkeypatch):
    fixed = [SpendEvent(statistics_noise(target, DELTA), 1.0, 1)] if released else []
    before = accounting._composed.cache_info().misses
    guessed = calibrate(target, DELTA, rate, steps, fixed)
    assert accounting._composed.cache_info().misses - before <= 7
    monkeypatch.setattr(accounting, "GUESSES", 0)
    assert calibrate(target, DELTA, rate, steps, fixed) == guessed


def test_calibrated_noise_of_a_gaussian_mechanism():
    assert calibrate(3.0, DELTA, 1.0, 9) == pytest.approx(3 / gaussian_mu(3.0, DELTA), rel=2e-3)


def test_target_that_no_noise_reaches_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="cost 4.38"):
        calibrate(1.0, DELTA, 0.1, 10, [SpendEvent(1.0, 1.0, 1)])
    monkeypatch.setattr(accounting, "MAX_NOISE", 4.0)  # a few doublings are as good as many
    with pytest.raises(ConfigError, match="above 4"):
        calibrate(0.01, DELTA, 1.0, 100)
    monkeypatch.setattr(accounting, "_expected_noise", lambda *settings: 1.0)  # a guess that is wrong
    with pytest.raises(ConfigError, match="above 4"):
        calibrate(0.01, DELTA, 1.0, 100)


@pytest.mark.parametrize("target", [0.1, 1.0, 3.0, 50.0])
def test_gaussian_mu_is_what_epsilon_and_delta_allow(target):
    assert gaussian(gaussian_mu(target, DELTA)) == pytest.approx(target, rel=1e-6)
    assert statistics_noise(target, DELTA) == pytest.approx(1 / (gaussian_mu(target, DELTA) * 0.15**0.5))


def test_shares_of_mu_squared_add_up():
    """Gaussian releases compose by their mu^2 (Dong, Roth and Su, 2022)."""
    shares = [SpendEvent(statistics_noise(3.0, DELTA, share), 1.0, 1) for share in (0.15, 0.25, 0.6)]
    assert epsilon(shares, DELTA) == pytest.approx(3.0, abs=2e-3)


def test_default_delta():
    assert [default_delta(n) for n in (10, 10_000, 1_000_000)] == [1e-5, 1e-5, 1e-7]
    with pytest.raises(ConfigError):
        default_delta(0)


def test_costs_of_studies_are_added():
    assert add_costs([(1.0, 1e-5), (0.5, 1e-6), (0.25, 1e-6)]) == pytest.approx((1.75, 1.2e-5))


@pytest.mark.parametrize(
    "event",
    [
        (0.0, 0.1, 1),
        (-1.0, 0.1, 1),
        (math.inf, 0.1, 1),
        (math.nan, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 1.1, 1),
        (1.0, 0.1, 0),
    ],
)
def test_invalid_events_are_refused(event):
    with pytest.raises(ConfigError, match="noise_multiplier must be"):
        epsilon([SpendEvent(*event)], DELTA)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_invalid_deltas_are_refused(delta):
    with pytest.raises(ConfigError, match="delta"):
        epsilon([SpendEvent(1.0, 0.1, 1)], delta)
    with pytest.raises(ConfigError, match="delta"):
        gaussian_mu(1.0, delta)


def test_tiny_noise_is_computed_quickly():
    """Exact up to the grid, which is wide here: mu^2 / 2 is 5e6 already."""
    found = epsilon([SpendEvent(0.001, 1.0, 10)], DELTA)
    assert found == pytest.approx(10 / 0.001**2 / 2, rel=5e-3)


def test_small_losses_are_as_exact_as_large_ones():
    """With much noise, sampled steps are a Gaussian mechanism of mu = q sqrt(T) / sigma (Bu et al., 2020)."""
    for noise in (60.0, 100.0):
        found = epsilon([SpendEvent(noise, 0.01, 2000)], DELTA)
        assert found == pytest.approx(gaussian(0.01 * math.sqrt(2000) / noise), rel=0.02)
