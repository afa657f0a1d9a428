"""Pages hold all that they need, whatever the names are."""

import pytest

from fedtl._util.records import from_plain
from fedtl.report.compare_page import CHOICE
from fedtl.report.figures import Curve, format_value, format_with_interval
from fedtl.results.comparison import Estimate
from tests.report.readers import assert_self_contained, printed
from tests.report.samples import (
    CURVES,
    HOSTILE,
    PAGES,
    TOML,
    a_comparison,
    a_history,
    a_result,
    compare_page,
    compare_table,
    figures,
    gain_of,
    run_page,
)


@pytest.mark.parametrize(("task", "silos", "extras"), PAGES)
def test_the_page_of_a_run_is_self_contained_and_shows_its_input(task, silos, extras):
    result, history = a_result(task, silos, extras), a_history(task, silos)
    page = run_page(result, history, TOML)
    text = assert_self_contained(page)
    assert page.count("<svg") == 2
    metric = result["metric"]
    for name, its in result["silos"].items():
        assert name in text
        assert all(format_value(m, its[m]) in text for m in figures(task, 0))
    assert (
        f"{format_value(metric, result['mean'][metric])}; the worst is {format_value(metric, result['worst'][metric])}, at"
        in text
    )
    assert TOML.strip() in text
    assert "1,234,567 bytes" in text
    assert (f"{silos[1]} was left out 2 times" in text) == extras
    assert ("Silos that joined late" in text) == extras
    assert ("AdaBN on that" in text) == extras
    assert (("start.pt" in text), ("5e" * 32 in text)) == (extras, extras)


@pytest.mark.parametrize(("task", "silos", "extras"), PAGES)
def test_the_page_of_a_comparison_is_self_contained_and_shows_its_input(task, silos, extras):
    comparison = a_comparison(task, silos, extras=extras)
    page = compare_page(comparison, CURVES, TOML)
    text = assert_self_contained(page)
    assert page.count("<svg") == 4
    metric = comparison["metric"]
    for its in comparison["methods"].values():
        assert all(
            format_with_interval(metric, from_plain(Estimate, its[silo][metric])) in text for silo in silos
        )
    for silo in silos:
        assert silo in text
        assert gain_of(comparison, silo) in text
    assert all(warning in text for warning in comparison["warnings"])
    assert CHOICE["validation rows"] in text
    assert ("Silos that joined late" in text) == extras


def test_a_page_repeats():
    result, history, comparison = a_result(), a_history(), a_comparison()
    assert run_page(result, history, TOML) == run_page(result, history, TOML)
    assert compare_page(comparison, CURVES, TOML) == compare_page(comparison, CURVES, TOML)


def test_hostile_method_names_are_text():
    comparison = a_comparison(methods=["local", *HOSTILE])
    text = assert_self_contained(
        compare_page(comparison, {name: Curve([0.1, float("nan"), 0.4], [6, 0, 6]) for name in HOSTILE}, TOML)
    )
    assert all(name in text for name in HOSTILE)
    assert "[red]" in printed(compare_table(comparison), 200)
