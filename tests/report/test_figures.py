"""How figures and intervals are written."""

import pytest

from fedtl.report.figures import (
    format_difference,
    format_short_difference,
    format_value,
    format_with_interval,
)
from fedtl.report.html import whole_intervals
from fedtl.results.comparison import Estimate
from tests.report.readers import printed, text_of
from tests.report.samples import CURVES, MAIN, a_comparison, compare_table, compare_words


def test_figures_are_written_in_the_unit_of_their_metric():
    assert format_value("accuracy", 0.9712) == "97.1"
    assert format_value("rmse", 0.9712) == "0.971"
    assert format_value("auc", None) == "-"
    assert format_with_interval("r2", Estimate(0.5, None, ())) == "0.500"
    assert format_with_interval("r2", None) == "-"
    assert format_with_interval("accuracy", Estimate(0.912, (0.9, 0.928), ())) == "91.2 90…93"
    assert format_short_difference("accuracy", -0.0001, [-0.02, 0.02]) == "+0.0 -2…+2"
    assert format_short_difference("accuracy", -0.04, [-0.09, -0.001]) == "-4.0 -9…-0"
    assert format_difference("r2", 0.03, [0.01, 0.05]) == "+0.030 [+0.010, +0.050]"
    assert format_difference("accuracy", 0.03, None) == "+3.0"


def test_an_interval_is_shown_by_its_ends_and_never_by_half_its_width():
    """Half a width would suggest that an R2 of 0.519 could be 20, or an accuracy of 98 % could be 101 %."""
    wide = Estimate(0.519, (-39.88, 0.612), (0.519,))
    assert format_with_interval("r2", wide) == "0.519 -39.88…0.61"
    assert format_value("r2", -9e21) == "-9e+21"
    for task in MAIN:
        comparison = a_comparison(task)
        for text in (printed(compare_table(comparison), 200), text_of(compare_words(comparison, CURVES, ""))):
            assert "±" not in text
            assert "95 % interval" in text


def test_an_interval_in_a_cell_is_never_broken_and_its_text_is_escaped():
    assert whole_intervals("<b> 58.6 57…60") == '&lt;b&gt; 58.6 <span class="whole">57…60</span>'
    assert whole_intervals("+1.7 [-1.2, +2.3] x") == '+1.7 <span class="whole">[-1.2, +2.3]</span> x'
    assert whole_intervals("0.306 to 0.563") == '<span class="whole">0.306 to 0.563</span>'
    assert whole_intervals("[a, b], 5 to the end") == "[a, b], 5 to the end"


@pytest.mark.parametrize(
    ("mean", "ends", "shown"),
    [(0.95, (0.89, 1.0), "95.0 89…100"), (0.999, (0.9961, 1.0), "99.9 99.6…100.0"), (0.124, (0.1, 0.1241), "12.4 10.0…12.4")],
)  # fmt: skip
def test_rounded_ends_of_an_interval_do_not_exclude_its_mean(mean, ends, shown):
    assert format_with_interval("accuracy", Estimate(mean, ends, (mean,))) == shown
    signed = "+" + shown.replace(" ", " +").replace("…", "…+")
    assert format_short_difference("accuracy", mean, ends) == signed
