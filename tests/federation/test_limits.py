"""Updates that stand out in a round."""

import re

import pytest

from fedtl.federation.limits import NO_LIMITS, UpdateLimits, outliers

EVEN = {"a": 1.0, "b": 1.1, "c": 0.9}


@pytest.mark.parametrize(
    ("weights", "norms", "named"),
    [
        ({"a": 10.0, "b": 11.0, "c": 9.0}, EVEN, []),
        (EVEN, {**EVEN, "b": 5.0}, ["b", "5", "0.95"]),
        ({**EVEN, "a": 1.2, "c": 1e12}, EVEN, ["c", "100%"]),
        ({"a": 2.0, "b": 1e9}, {"a": 1.0, "b": 1e9}, []),  # of two, it cannot be said which
        (EVEN, {"a": 0.0, "b": 0.0, "c": 0.0}, []),
    ],
)
def test_an_update_stands_out_by_its_norm_or_its_weight(weights, norms, named):
    found = " ".join(outliers(weights, norms, NO_LIMITS))
    assert re.findall(r"^\w+(?=:)|\d[\d.%]*", found) == named


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"a": 1.0, "b": 500.0}, ["a"]),
        ({"a": 1.0, "b": 300.0, "c": 500.0, "d": 1.0}, ["a", "d"]),
        ({"a": 1.0, "b": 9.0}, []),
        ({"a": 2.0, "b": 500.0}, []),
    ],
)
def test_a_silo_whose_row_count_stays_at_home_is_named_beside_many_rows(weights, named):
    found = [line for line in outliers(weights, dict.fromkeys(weights, 1.0), NO_LIMITS) if "1 row" in line]
    assert [line.partition(":")[0] for line in found] == named
    assert all("counts as 500" in line and 'weights = "equal"' in line for line in found)
    assert outliers(weights, dict.fromkeys(weights, 1.0), UpdateLimits("equal")) == ()


def test_a_weight_that_the_plan_caps_does_not_stand_out():
    weights = {**EVEN, "c": 1e12}
    assert outliers(weights, EVEN, UpdateLimits("equal")) == ()
    assert outliers(weights, EVEN, UpdateLimits("rows", 1.0)) == ()
