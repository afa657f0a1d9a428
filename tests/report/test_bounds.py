"""No page and no table shows a gain or an interval that the metric does not allow."""

import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from fedtl._util.records import from_plain
from fedtl.deployment.site.joining import Joining
from fedtl.experiment.summary import _losses
from fedtl.report import answer, answer_tables, gain_plots, onboard_page, transfer_page, transfer_plots
from fedtl.report.bounds import bounded, bounded_gain, could_be_seen
from fedtl.report.figures import format_difference, format_short_difference, format_with_interval
from fedtl.report.verdict_tables import benefit_cells
from fedtl.results.comparison import Comparison, Estimate, Gain, Verdict
from fedtl.results.onboard import HeadScore
from fedtl.results.page_facts import ClassRecall, ComparisonFacts
from fedtl.results.transferability import Spread
from fedtl.tasks.metrics import METRICS
from tests.report.readers import printed, text_of
from tests.report.samples import CURVES, a_comparison, compare_table, compare_words, overall_table

WIDE = (-1.39, 1.19)  # of an accuracy, with five test rows
NONE = "no gain could have been seen in 4 of 5 repetitions with so few rows and seeds"


def with_local(alone, detectable, metric="accuracy", verdict="unclear"):
    """Return a comparison of one unclear silo with this interval of training alone."""
    comparison = a_comparison(silos=["plain", "faint"], extras=False)
    own = comparison["benefit"]["plain"] | {"verdict": verdict, "detectable": detectable}
    comparison |= {"benefit": {"plain": own}, "metric": metric, "over_local": {}, "overall": {}}
    comparison["joining"] = None
    comparison["methods"] = {
        name: {
            silo: {metric: {"mean": 0.5, "ci95": list(alone) if alone else None, "seeds": [0.5]}}
            for silo in silos
        }
        for name, silos in comparison["methods"].items()
    }
    return from_plain(Comparison, comparison)


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_end_where_the_metric_does(metric):
    own, far = METRICS[metric], (-1e5, 1e5)
    assert bounded(metric, far) == (max(own.low, -1e5), min(own.high, 1e5))
    largest = own.high - own.low
    if math.isinf(largest):
        assert bounded_gain(metric, far) == far
        assert "100000" in format_difference(metric, 0.0, far)
    else:
        assert bounded_gain(metric, far) == (-largest, largest)
        shown = largest * (100 if own.percent else 1)
        for text in (format_difference(metric, 0.0, far), format_short_difference(metric, 0.0, far)):
            ends = re.findall(r"[+-][\d.]+", text)[1:]
            assert [float(end) for end in ends] == [-shown, shown]


def test_an_interval_within_the_limits_stays_as_it_is():
    assert format_difference("accuracy", -0.2, (-0.99, 0.59)) == "-20.0 [-99.0, +59.0]"
    assert format_short_difference("accuracy", -0.6, (-1.39, 0.19)) == "-60.0 -100…+19"
    assert format_with_interval("auc", Estimate(0.9, (0.7, 1.2), (0.9,))) == "90.0 70…100"
    assert format_with_interval("kappa", Estimate(0.0, (-1.5, 0.4), (0.0,))) == "0.000 -1.00…0.40"


@pytest.mark.parametrize(
    ("alone", "detectable", "metric", "seen"),
    [
        ((0.21, 1.0), 0.60, "accuracy", True),
        ((0.21, 1.0), 0.80, "accuracy", False),  # training alone may leave 79 points, not 80
        (None, 0.99, "accuracy", True),
        (None, 1.051, "accuracy", False),
        ((0.1, 0.5), 1.2, "kappa", False),
        ((-0.9, 0.5), 1.2, "kappa", True),
        ((2.0, 3.0), 2.9, "rmse", True),
        ((2.0, 3.0), 3.1, "rmse", False),  # RMSE cannot fall below zero
        ((-5.0, 0.2), 5.5, "r2", True),
        (None, 1e6, "rmse", True),
    ],
)
def test_a_gain_that_cannot_be_is_not_said_to_be_seen(alone, detectable, metric, seen):
    comparison = with_local(alone, detectable, metric)
    assert could_be_seen(comparison, "plain") is seen
    said = answer.detectable_gains(comparison)
    assert (NONE in said) is not seen
    assert ("would show a true gain of" in said) is seen


def test_silos_that_could_and_could_not_show_a_gain_are_told_apart():
    comparison = a_comparison()
    comparison["benefit"]["inverted"]["detectable"] = 1.051
    text, table = text_of(compare_words(comparison, CURVES, "")), printed(compare_table(comparison), 300)
    for shown in (text, " ".join(table.split())):
        assert f" 6.2 points in 4 of 5 repetitions; at 1 of 2, {NONE}" in shown
        assert "105.1" not in shown
    assert "no gain: that would be" in text
    assert re.search(r"unclear\s*no gain", text)  # in the column "detectable"


@pytest.mark.parametrize(("verdict", "cell"), [("unclear", "no gain"), ("loses", "no gain"), ("gains", "-")])
def test_no_gain_is_not_said_of_a_silo_that_is_shown_to_gain(verdict, cell):
    assert benefit_cells(with_local((0.95, 0.99), 0.06, verdict=verdict), "plain")[-1].text == cell
    assert benefit_cells(with_local((0.95, 0.99), 0.04, verdict=verdict), "plain")[-1].text == "4.0"


def test_an_interval_that_was_cut_is_told():
    comparison, words = a_comparison(), "ends at ±100.0 points is cut there"
    table, page = (lambda it: printed(compare_table(it), 300)), (lambda it: compare_words(it, CURVES, ""))
    assert words not in table(comparison)
    assert words not in text_of(page(comparison))
    comparison["benefit"]["faint"]["ci95"] = list(WIDE)
    comparison["joining"]["mean"]["ci95"] = list(WIDE)
    assert words in table(comparison)
    text = text_of(page(comparison))
    assert words in text
    assert "(95 % interval -100.0 to +100.0)" in text  # in the answer on top
    assert "[-100.0, +100.0]" in printed(overall_table(comparison), 200)
    for shown in (text, table(comparison)):
        assert "139" not in shown
        assert "119" not in shown


def test_warnings_and_a_site_say_no_impossible_loss():
    gains = {"fedavg": {"plain": Gain(-0.9, (-1.6, -0.2), Verdict.LOSES)}}
    (line,) = _losses(gains, "accuracy")
    assert "(95 % interval 20.0 to 100.0)" in line
    assert "95 % interval -1.000 to +1.000" in str(Joining("accuracy", Gain(0.1, WIDE)))
    assert "too few test rows" in str(Joining("accuracy", Gain(0.1, None)))


def test_onboarding_transfer_and_classes_keep_to_the_limits():
    score = HeadScore(mean=0.98, ci95=(0.9, 1.06), episodes=(0.98,), loss=0.1, held_out=None)
    assert onboard_page._with_interval(score) == "98.0 [90.0, 100.0]"
    assert transfer_page._measure(Spread(0.97, (0.9, 1.04), 3), 0.0, 1.0) == "0.97 [0.90, 1.00]"
    assert transfer_page._measure(Spread(-0.6, (-1.3, 0.1), 3)) == "-0.60 [-1.30, 0.10]"
    recall = ClassRecall(alone=0.2, best=0.9, rows=5, gain=Gain(0.7, (0.2, 1.2)))
    facts = ComparisonFacts(origin=None, rows={}, sent={}, recall={"plain": {"nine": recall}})
    assert "+70 [+20, +100]" in str(answer_tables.recall_grid(facts))


def drawn(draw):
    """Return the largest x and y of the lines of more than one point that a plot draws."""
    figure = Figure()
    axes = figure.subplots()
    draw(axes)
    spans = [np.abs(line.get_xydata()).max(0) for line in axes.lines if len(line.get_xydata()) > 1]
    return np.max(spans, axis=0)


def test_plots_draw_no_further():
    assert (
        drawn(lambda axes: gain_plots._gain(axes, "accuracy", 0, (0.1, WIDE, Verdict.UNCLEAR), True))[0]
        == 100
    )
    assert drawn(lambda axes: gain_plots._diamond(axes, "accuracy", 0, Gain(0.1, WIDE), 0.3))[0] == 100
    values = [(1, Spread(0.9, (0.7, 1.1), 2))]
    assert drawn(lambda axes: transfer_plots._curve(axes, values, 0, 1.0, (0.0, 1.0)))[1] == 1
