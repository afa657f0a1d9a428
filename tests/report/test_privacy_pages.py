"""What tables and pages say of differential privacy."""

import pytest

from fedtl.report.compare_page import CHOICE
from fedtl.report.page_notes import NO_PRIVACY, NOT_PRIVATE
from tests.report.readers import printed, text_of
from tests.report.samples import (
    SPENT,
    a_claim,
    a_comparison,
    a_history,
    a_result,
    compare_table,
    compare_words,
    privacy_table,
    run_page,
    run_words,
)


def test_the_page_of_a_private_run_states_the_guarantee_of_its_ledgers():
    spent = SPENT
    result = a_result()
    result["privacy"] = a_claim(silos={"plain": spent, "faint": {**spent, "epsilon": 1.0}})
    silent = [{**line, "silos": {name: {} for name in line["silos"]}} for line in a_history()]
    page = text_of(run_words(result, silent, ""))
    assert "at most epsilon = 2.500 at delta = 1e-05" in page
    assert "(4.750 for replace-one" in page
    assert "tuning on private data: public" in page
    assert NO_PRIVACY not in page
    assert "Validation by round" not in run_page(result, silent, "")
    result["privacy"] = a_claim(private=False, silos={"plain": spent})
    assert NOT_PRIVATE in text_of(run_words(result, silent, ""))


@pytest.mark.parametrize(("private", "tuning"), [(True, "public"), (False, "undeclared")])
def test_every_page_states_the_source_of_the_settings(private, tuning):
    its = a_claim(private=private, tuning=tuning, epsilon=3.0)
    spent = SPENT
    said = f"tuning on private data: {tuning}."
    alone = {**a_result(), "privacy": {**its, "silos": {"plain": spent}}}
    assert said.rstrip(".") in text_of(run_words(alone, a_history(), ""))
    assert said in text_of(compare_words({**a_comparison(), "privacy": its}, {}, ""))


def test_the_page_of_a_private_comparison_states_that_epsilons_add_up():
    comparison = a_comparison()
    assert NO_PRIVACY in text_of(compare_words(comparison, {}, ""))
    comparison["privacy"] = a_claim(epsilon=3.0)
    page = text_of(compare_words(comparison, {}, ""))
    assert "epsilon = 3 for each record" in page
    assert "epsilons add" in page
    assert CHOICE["validation rows"] in page


def test_a_comparison_without_a_best_method_states_why():
    comparison = a_comparison() | {"privacy": a_claim(epsilon=3.0), "chosen_on": None, "benefit": {}}
    page = text_of(compare_words(comparison, {}, ""))
    assert "No best method is named" in page
    assert CHOICE[None] in page
    assert CHOICE["validation rows"] not in page
    table = " ".join(printed(compare_table(comparison)).split())
    assert "epsilon = 3 in each run" in table
    assert "tuning: public; no best" in table
    released = comparison | {"benefit": a_comparison()["benefit"], "chosen_on": "released accuracy"}
    assert CHOICE["released accuracy"] in text_of(compare_words(released, {}, ""))


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_the_privacy_table_names_and_counts_the_protected_unit(unit):
    text = printed(privacy_table(a_claim(unit=unit, silos={"plain": SPENT})))
    assert f"of each {unit}" in text
    head, row = (line for line in text.splitlines() if line.startswith(("silo", "plain")))
    assert head.split()[1] == f"{unit}s"
    assert row.split()[1] == "180"
    assert ("record" in text) == (unit == "record")
    assert "rows" not in head
    table = " ".join(
        printed(compare_table(a_comparison() | {"privacy": a_claim(unit=unit, epsilon=3.0)})).split()
    )
    assert f"differential privacy of each {unit}: epsilon = 3" in table


def test_under_privacy_with_folds_it_is_told_in_how_many_runs_a_unit_is_trained_on():
    comparison = a_comparison() | {"privacy": a_claim(unit="patient", epsilon=3.0), "folds": 5}
    page = text_of(compare_words(comparison, {}, ""))
    assert "in 4 of the 5 runs" in page
    assert "epsilons add up" in page
