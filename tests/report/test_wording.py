"""The sentence on what can be learnt about one person, compared with the trade-off that epsilon and delta allow."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from fedtl.report.wording import (
    format_delta,
    format_epsilon,
    format_percent,
    max_guess_accuracy,
    max_true_positive_rate,
    not_covered,
    once_spent,
    worst_case,
)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_the_bound_is_the_optimum_of_a_linear_program(epsilon, delta):
    """
    The most powerful test between two outcomes whose probabilities differ by at most e^epsilon and delta, by linear
    programming over its error rates.
    """
    from scipy.optimize import linprog

    grown = math.exp(epsilon)
    # t: right about those who took part; f = 0.01: wrong about the others. t <= e f + d, 1 - f <= e (1 - t) + d
    found = linprog(
        [-1], A_ub=[[1], [grown]], b_ub=[grown * 0.01 + delta, grown + delta - 0.99], bounds=[(0, 1)]
    )
    assert max_true_positive_rate(epsilon, delta) == pytest.approx(found.x[0], rel=1e-9)


def test_a_gaussian_mechanism_stays_below_the_bound():
    """Of epsilon 3 and delta 1e-5 (Balle and Wang, 2018), whose best attack is known (Dong, Roth and Su, 2022)."""
    epsilon, delta = 3.0, 1e-5

    def delta_error(mu):
        return ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu) - delta

    mu = brentq(delta_error, 1e-3, 10)
    for false_positive_rate in np.geomspace(1e-6, 0.5, 20):
        power = 1 - ndtr(ndtri(1 - false_positive_rate) - mu)
        assert power <= max_true_positive_rate(epsilon, delta, false_positive_rate)
        assert (power + 1 - false_positive_rate) / 2 <= max_guess_accuracy(epsilon, delta)


def test_the_number_in_the_sentence_is_rounded_up_and_never_hides_a_weak_bound():
    assert "at most 20.1 %" in worst_case(3.0, 1e-5, "patient")  # e^3 of 1 % is 20.0855 %
    assert "little protection" not in worst_case(3.0, 1e-5, "patient")
    assert worst_case(8.0, 1e-5, "patient").endswith("little protection.")
    for share in np.random.default_rng(0).uniform(0, 1, 500):
        assert float(format_percent(share).rstrip(" %")) / 100 >= share - 1e-12
        assert share - 1e-12 <= float(format_epsilon(10 * share)) / 10 < share + 1e-4
        assert share - 1e-12 <= float(format_delta(share)) <= 1.1 * share + 1e-12
    assert (format_delta(1e-5), format_delta(1.41e-5), format_epsilon(0.001, 2)) == (
        "1e-05",
        "1.5e-05",
        "0.01",
    )
    assert format_epsilon(math.inf) == "inf"
    assert max_true_positive_rate(1e9, 0.0) == 1.0
    assert max_guess_accuracy(0.0, 0.0) == 0.5
    assert "right in at most 88.1 % of guesses" in once_spent(2.0, 0.0)  # e^2 / (1 + e^2)


def test_units_at_several_institutions_are_named_as_not_covered():
    assert "several institutions" in not_covered("patient")
    assert "several institutions" in not_covered("record")
    assert "several records" in not_covered("record")
