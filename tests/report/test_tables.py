"""Tables show every figure that was measured, and no others."""

import re
from xml.etree import ElementTree

import pytest

from fedtl.report.figures import LATE_ROWS, format_value
from tests.report.readers import assert_self_contained, cells_of, printed, text_of
from tests.report.samples import (
    CURVES,
    HOSTILE,
    MAIN,
    MANY,
    METHODS,
    SILOS,
    TOML,
    a_comparison,
    a_history,
    a_result,
    compare_page,
    compare_table,
    compare_words,
    figures,
    gain_of,
    late_compare_table,
    late_table,
    method_dots,
    refitted_table,
    run_table,
    run_words,
    silo_bars,
    target_table,
    with_one_silo_less,
)


@pytest.mark.parametrize("silos", [SILOS, MANY, HOSTILE], ids=["six", "forty", "hostile"])
@pytest.mark.parametrize("task", MAIN)
def test_tables_fit_and_show_every_number(task, silos):
    result, comparison = a_result(task, silos), a_comparison(task, silos)
    text = printed(run_table(result))
    for name, its in result["silos"].items():
        line = next(line for line in text.splitlines() if name in line)
        assert all(format_value(m, its[m]) in line for m in figures(task, 0))
    assert f"worst: {result['worst']['silo']}" in text
    text = printed(compare_table(comparison), 200)
    metric = comparison["metric"]
    for silo in silos:
        line = next(line for line in text.splitlines() if silo in line)
        assert all(
            format_value(metric, its[silo][metric]["mean"]) in line for its in comparison["methods"].values()
        )
        assert gain_of(comparison, silo) in line
        assert comparison["benefit"][silo]["verdict"] in line
    assert text.count(format_value(metric, 0.5432)) >= len(METHODS)
    assert format_value(metric, 0.8765) in printed(target_table(comparison))
    assert LATE_ROWS["head"] in printed(late_table(result))
    assert silos[-1] in printed(late_compare_table(comparison))


def test_six_methods_at_six_silos_take_one_line_each_in_a_hundred_and_ten_columns():
    short = [name for name in METHODS if "," not in name] + ["fedprox"]
    text = printed(compare_table(a_comparison(methods=short)), 110)
    assert "50.0 49…51" in text
    assert len(text.splitlines()) < 16  # three of them say what the verdicts mean


def test_the_best_method_is_bold_and_the_verdict_coloured():
    table = compare_table(a_comparison())
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["fedavg"][sorted(SILOS).index("plain")].style == "bold"
    assert columns["fedbn"][sorted(SILOS).index("plain")].style == ""
    colours = dict(
        zip(map(str, columns["joining"][:6]), (cell.style for cell in columns["joining"][:6]), strict=True)
    )
    assert colours == {"gains": "green", "unclear": "yellow", "as good": "cyan", "loses": "red"}


def test_what_was_not_measured_is_a_dash_and_never_zero():
    result, comparison = a_result("binary"), a_comparison(methods=["fedavg"], extras=False)
    del result["silos"]["plain"]["auc"], comparison["methods"]["fedavg"]["plain"]["accuracy"]
    line = next(line for line in printed(run_table(result)).splitlines() if "plain" in line)
    assert " - " in line
    line = next(line for line in printed(compare_table(comparison)).splitlines() if "plain" in line)
    assert line.split() == ["plain", "-"]
    assert "<td>-</td>" in compare_words(comparison, {}, TOML)


def test_a_missing_interval_is_not_shown():
    comparison = a_comparison()
    comparison["benefit"]["plain"] |= {"ci95": None, "verdict": "unclear"}
    for its in comparison["methods"].values():
        its["plain"]["accuracy"]["ci95"] = None
    assert_self_contained(compare_page(comparison, CURVES, TOML))
    line = next(line for line in printed(compare_table(comparison)).splitlines() if line.startswith("plain"))
    assert "…" not in line.replace(gain_of(comparison, "plain"), "")


def test_a_missing_figure_has_a_reason_and_a_mean_over_fewer_silos_is_marked():
    result, comparison = with_one_silo_less()
    mean = f"{format_value('auc', result['mean']['auc'])} (5 of 6)"
    for text in (printed(run_table(result)), text_of(run_words(result, a_history(), ""))):
        assert "no AUC at plain: all 60 rows" in text
        assert mean in text
        assert text.count("(5 of 6)") == 1
    reason = "no accuracy at plain under fedavg: the scores of 3 of 60 rows are not finite"
    for text in (printed(compare_table(comparison), 200), text_of(compare_words(comparison, CURVES, ""))):
        assert reason in text
        assert text.count("(5 of 6)") == 2  # the mean and the worst of one method
    many = a_comparison("binary", MANY)
    del many["methods"]["fedavg"][MANY[0]]["accuracy"]
    assert "fedavg (39 of 40)" in set(ElementTree.fromstring(method_dots(many)).itertext())
    bars = set(ElementTree.fromstring(silo_bars({**result, "metric": "auc"})).itertext())
    assert any(word.startswith("mean, ") and word.endswith("(5 of 6)") for word in bars)


def test_scores_with_shared_statistics_and_with_those_of_the_silo_are_both_shown():
    comparison, result = a_comparison(methods=["local", "fedavg"]), a_result()
    comparison["refitted"] = {
        "fedavg": {silo: {"accuracy": {"mean": 0.8421, "seeds": [0.8421]}} for silo in SILOS[:5]}
    }
    table = printed(refitted_table(comparison))
    assert "84.2 (5 of 6)" in table
    assert format_value("accuracy", comparison["mean"]["fedavg"]["accuracy"]["mean"]) in table
    assert "84.2" in text_of(compare_words(comparison, CURVES, ""))
    result["silos"]["plain"]["refitted"] = {"accuracy": 0.8421}
    assert "84.2" in text_of(run_words(result, a_history(), ""))
    assert "exact statistics of" in text_of(run_words(result, a_history(), ""))


def test_shared_statistics_are_compared_on_the_model_before_it_was_tuned():
    """Not on the final model, whose statistics are exact in any case."""
    figure = {"accuracy": {"mean": 0.4321, "seeds": [0.4321]}}
    refitted = {"accuracy": {"mean": 0.5678, "seeds": [0.5678]}}
    comparison = a_comparison(methods=["local", "fedavg"], extras=False) | {
        "received": {"fedavg": dict.fromkeys(SILOS, figure)},
        "refitted": {"fedavg": dict.fromkeys(SILOS, refitted)},
    }
    assert re.search(r"fedavg\W+43.2\W+56.8", printed(refitted_table(comparison)))
    assert "fedavg 43.2 56.8" in cells_of(compare_words(comparison, CURVES, TOML))


def test_one_round_is_one_round():
    assert "1 round:" in printed(run_table(a_result() | {"rounds": 1}))
    assert "1 round, seed" in run_words(a_result() | {"rounds": 1}, a_history(), "")
    assert "1 round<" in compare_words(a_comparison() | {"rounds": 1}, {}, "")
