"""What the page and the table of a comparison answer: who gains by joining, by how much, and how it was found."""

import re
from xml.etree import ElementTree

import pytest

from tests.report.readers import assert_self_contained, cells_of, printed, text_of
from tests.report.samples import (
    CURVES,
    MANY,
    SILOS,
    TOML,
    a_comparison,
    a_tuning,
    benefit_forest,
    compare_page,
    compare_table,
    compare_words,
    mean_gains,
    overall_table,
)


def test_the_answer_comes_first_and_names_the_silos_that_do_not_gain():
    comparison = a_comparison(silos=SILOS[:4])
    page = compare_words(comparison, CURVES, TOML)
    answer = (
        "1 of 4 silos is shown to gain by joining; rotated is as good as alone; textured loses; faint is unclear. Over these 4 "
        "silos, the mean gain over training alone is +1.7 points (95 % interval +0.6 to +2.9): a gain."
    )
    assert answer in page
    assert page.index(answer) < page.index("<table")
    many = compare_words(a_comparison(silos=MANY), CURVES, TOML)
    assert (
        "10 of 40 silos are shown to gain by joining; 10 are as good as alone; 10 lose; 10 are unclear."
        in many
    )


@pytest.mark.parametrize("methods", [["fedavg", "fedbn"], ["pooled"], ["local"]], ids="-".join)
def test_without_both_local_and_a_method_there_is_no_verdict(methods):
    comparison = a_comparison(methods=["local", "fedavg"])
    comparison["methods"] = {
        name: its
        for name, its in a_comparison(methods=["local", "pooled", "fedavg", "fedbn"])["methods"].items()
        if name in methods
    }
    comparison |= {key: dict.fromkeys(methods, comparison[key]["local"]) for key in ("mean", "worst")}
    comparison |= {"benefit": {}, "over_local": {}, "target": {}, "late": {}, "overall": {}, "joining": None}
    assert "No comparison" in assert_self_contained(compare_page(comparison, {}, TOML))
    assert "joining" not in printed(compare_table(comparison))
    for optional in ("target", "late"):
        del comparison[optional]
    assert "No comparison" in compare_page(comparison, {}, TOML)
    printed(compare_table(comparison))


def test_a_whole_silo_that_cannot_be_compared_is_counted():
    comparison = a_comparison(silos=SILOS[:4])
    del comparison["benefit"]["plain"]
    page = compare_words(comparison, CURVES, TOML)
    assert (
        "0 of 3 silos are shown to gain by joining; rotated is as good as alone; textured loses; faint is unclear; 1 more cannot "
        "be compared." in page
    )


def test_trials_epochs_and_yardsticks_are_told():
    methods = ["local", "constant", "local ensemble", "fedavg"]
    comparison = a_comparison(methods=methods, extras=False) | {
        "epochs": {"local": 30, "local ensemble": 60, "fedavg": 61},
        "tuning": {
            "local": a_tuning({0.01: 0.5, 0.1: 0.25}, 0.1),
            "fedavg": a_tuning({0.01: 0.125, 0.1: None}, 0.01),
        },
    }
    table = " ".join(printed(compare_table(comparison), 250).split())
    page = text_of(compare_words(comparison, CURVES, TOML))
    for text in (table, page):
        assert "2 trials with seed 0" in text
        assert "Tried: train.lr 0.01, 0.1" in text
        assert "local train.lr = 0.1; fedavg train.lr = 0.01" in text
        assert "local ensemble: two models" in text
        assert "constant: the same answer" in text
    assert re.search(r"epochs 30 60 61", table)
    cells = cells_of(compare_words(comparison, CURVES, TOML))
    assert "train.lr = 0.1 failed: a: not finite" in cells
    assert "train.lr = 0.01 0.1250 chosen" in cells


def test_each_seed_may_choose_for_itself():
    tuning = [a_tuning({0.01: 0.5, 0.1: 0.25}, 0.1)[0] | {"seed": seed} for seed in (0, 1)]
    tuning[1]["chosen"] = {"train.lr": 0.01}
    comparison = a_comparison(methods=["local", "fedavg"], extras=False) | {"tuning": {"local": tuning}}
    page = text_of(compare_words(comparison, CURVES, TOML))
    assert "2 trials under each seed" in page
    assert "local train.lr = 0.1 / train.lr = 0.01" in page


def test_an_answer_never_takes_what_was_not_shown_for_its_opposite():
    comparison = a_comparison(silos=SILOS[:4])
    for own in comparison["benefit"].values():
        own["verdict"] = "unclear"
    comparison["joining"]["mean"] = {"mean": 0.004, "ci95": [-0.012, 0.02], "verdict": "unclear"}
    text = text_of(compare_words(comparison, CURVES, ""))
    assert "0 of 4 silos are shown to gain by joining; all are unclear." in text
    assert "+0.4 points (95 % interval -1.2 to +2.0): not shown to be a gain or a loss." in text
    del comparison["benefit"]["plain"], comparison["benefit"]["faint"], comparison["benefit"]["rotated"]
    alone = compare_words(comparison, CURVES, "")
    assert (
        "0 of 1 silo is shown to gain by joining; textured is unclear; 3 more cannot be compared.</p>"
        in alone
    )


def test_all_silos_together_stand_in_the_table_the_page_and_the_plots():
    comparison = a_comparison()
    table = printed(overall_table(comparison), 160)
    for name in ("chosen by the silos", *comparison["overall"]):
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        assert "+1.7 [+0.6, +2.9]" in line
        assert "5 of 6" in line
    text = text_of(compare_words(comparison, CURVES, ""))
    assert text.count("+1.7 [+0.6, +2.9]") == 1 + len(comparison["overall"])
    assert "4 of 6 (67 %)" in text
    words = set(ElementTree.fromstring(benefit_forest(comparison)).itertext())
    assert {"mean of all silos", "as good", "gains", "loses", "unclear"} <= words
    words = set(ElementTree.fromstring(mean_gains(comparison)).itertext())
    assert {f"{name}: 5 of 6 not worse" for name in comparison["overall"]} <= words


def test_power_margin_and_correction_are_told():
    comparison = a_comparison()
    comparison["benefit"]["inverted"]["detectable"] = 0.0912
    table = " ".join(printed(compare_table(comparison)).split())
    text = text_of(compare_words(comparison, CURVES, ""))
    for shown in (table, text):
        assert "a true gain of 6.2 to 9.1 points" in shown
        assert "within 1.0 points" in shown
    assert "Benjamini and Hochberg, 1995" in text
    assert "looking at 6 silos" in text
    single = a_comparison() | {"seeds": [0], "folds": 5}
    text = text_of(compare_words(single, CURVES, ""))
    assert "With one seed, intervals" in text
    assert "each seed did 5 runs" in text


def test_a_choice_that_differs_between_runs_is_told():
    comparison = a_comparison()
    comparison["benefit"]["plain"]["chosen"] = {"fedavg": 2, "fedbn": 1}
    assert "fedavg (2 of 3)" in text_of(compare_words(comparison, CURVES, ""))


def test_the_answer_says_what_averaging_alone_gives():
    """A reader of one sentence must not take for a gain of joining what two local models give."""
    comparison = a_comparison()
    assert "without joining" not in text_of(compare_words(comparison, CURVES, ""))
    comparison["overall"]["local ensemble"] = comparison["overall"]["fedavg"]
    assert "gives +1.7 points without joining." in text_of(compare_words(comparison, CURVES, ""))
