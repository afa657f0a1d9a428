"""Tables, plots and pages show what they were given, whatever the names are."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from fedtl._util.records import from_plain
from fedtl.report import compare_page as comparison_pages
from fedtl.report import compare_tables, gain_plots, plots, tables
from fedtl.report import run_page as run_pages
from fedtl.report.compare_page import CHOICE
from fedtl.report.figures import (
    LATE_ROWS,
    Curve,
    format_difference,
    format_short_difference,
    format_value,
    format_with_interval,
)
from fedtl.report.html import whole_intervals
from fedtl.report.page_notes import NO_PRIVACY, NOT_PRIVATE
from fedtl.report.plots import convergence, label_axes, label_rows, new_figure, to_svg
from fedtl.results.comparison import Comparison, Estimate
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import HistoryLine, RunResult


def reading(kind, show):
    """Return ``show`` for the content of a JSON file of this kind."""
    return lambda content, *rest: show(from_plain(kind, content), *rest)


run_table, late_table, silo_bars = (
    reading(RunResult, show) for show in (tables.run_table, tables.late_table, plots.silo_bars)
)
compare_table, refitted_table, target_table, late_compare_table, overall_table = (
    reading(Comparison, show)
    for show in (
        compare_tables.compare_table,
        compare_tables.refitted_table,
        compare_tables.target_table,
        compare_tables.late_compare_table,
        compare_tables.overall_table,
    )
)
benefit_forest, mean_gains, method_dots, compare_page = (
    reading(Comparison, show)
    for show in (
        gain_plots.benefit_forest,
        gain_plots.mean_gains,
        plots.method_dots,
        comparison_pages.compare_page,
    )
)
privacy_table = reading(PrivacyReport, tables.privacy_table)


def lines_of(history):
    return [from_plain(HistoryLine, line) for line in history]


def learning_curves(history, *private):
    return plots.learning_curves(lines_of(history), *private)


def run_page(result, history, toml):
    return run_pages.run_page(from_plain(RunResult, result), lines_of(history), toml)


def without_plots(module, page):
    """Return the page function with no plot drawn: for tests of what a page says. Plots take most of a page's time."""

    def words(*content):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_plots", lambda *_: [])
            return page(*content)

    return words


compare_words = without_plots(comparison_pages, compare_page)
run_words = without_plots(run_pages, run_page)

SILOS = ["plain", "faint", "rotated", "textured", "noisy", "inverted"]
MANY = [f"hospital-{number:02}" for number in range(40)]
HOSTILE = ["<script>alert(1)</script>", "$\\frac{", "[red]x[/nothing]", "_hidden", 'a" onload="b', "病院"]
METHODS = ["local", "pooled", "fedavg", "fedbn", "fedtl", "fedtl, from scratch"]
TOML = 'seed = 0\n[method]\nname = "<fedtl>"\n'
MAIN = {
    "classification": ("accuracy", "balanced_accuracy"),
    "binary": ("accuracy", "auc"),
    "regression": ("r2", "rmse"),
}


def figures(task, at):
    return {
        name: 0.5 + 0.0123 * ((7 * at + 3 * place) % 31) for place, name in enumerate((*MAIN[task], "loss"))
    }


def a_result(task="classification", silos=SILOS, extras=True):
    its = {
        name: {"train": 200 + at, "val": 24, "test": 60 + at, **figures(task, at)}
        for at, name in enumerate(silos)
    }
    metric = MAIN[task][0]
    worst = min(its, key=lambda name: its[name][metric])
    result = {
        "fedtl": "0.1.0", "method": "fedtl", "model": "convnet", "seed": 0, "rounds": 5,
        "task": "regression" if task == "regression" else "classification", "metric": metric, "silos": its,
        "mean": {m: sum(s[m] for s in its.values()) / len(its) for m in figures(task, 0)},
        "mean_silos": dict.fromkeys(figures(task, 0), len(silos)), "notes": [],
        "worst": {"silo": worst, metric: its[worst][metric], "silos": len(silos)},
        "bytes_up": 1234567, "bytes_down": 7654321, "seconds": 12.3, "device": "cpu", "workers": 2,
    }  # fmt: skip
    if extras:
        its[silos[0]] |= {"target": figures(task, 11), "target_adabn": figures(task, 12)}
        result["late"] = {silos[-1]: {row: figures(task, at) for at, row in enumerate(LATE_ROWS)}}
        result["left_out"] = {silos[1]: ["round 2: its loss is not finite", "round 4: it did not answer"]}
        result["notes"] = ["the head was initialised anew"]
        result["files"] = [{"setting": "model.weights", "name": "start.pt", "sha256": "5e" * 32}]
    return result


def a_history(task="classification", silos=SILOS):
    metric = "rmse" if task == "regression" else "accuracy"
    return [
        {
            "round": number, "seconds": 0.8, "left_out": {}, "bytes_up": 10, "bytes_down": 10,
            "silos": {s: {"loss": 2 / number, metric: 0.9 - 0.5 / number - 0.01 * at} for at, s in enumerate(silos) if (at + number) % 5},
        }
        for number in range(1, 21)
    ]  # fmt: skip


def a_figure(value, half=0.0141):
    return {"mean": value, "ci95": [value - half, value + half], "seeds": [value, value]}


def overall(silos, worst):
    counts = {"gains": 3, "as good": 1, "loses": 1, "unclear": silos - 5}
    return {
        **{
            "silos": silos,
            "mean": {"mean": 0.0173, "ci95": [0.0061, 0.0285], "verdict": "gains"},
            "better": silos - 2,
        },
        **{"not_worse": silos - 1, "loss_excluded": 3, "loss_not_shown": silos - 1, "verdicts": counts},
        **{"worst": worst, "worst_gain": {"mean": -0.0432, "ci95": [-0.06, -0.02], "verdict": "loses"}},
    }


def a_comparison(task="classification", silos=SILOS, methods=METHODS, extras=True):
    metric, verdicts = MAIN[task][0], ("gains", "unclear", "as good", "loses")
    table = {
        method: {
            silo: {m: a_figure(v) for m, v in figures(task, at + 5 * column).items()}
            for at, silo in enumerate(silos)
        }
        for column, method in enumerate(methods)
    }
    joining = [method for method in methods if method not in ("local", "pooled")]
    gain = {
        "gains": (0.0313, [0.0112, 0.0514]),
        "unclear": (0.001, [-0.02, 0.022]),
        "as good": (0.002, [-0.004, 0.008]),
        "loses": (-0.04, [-0.06, -0.02]),
    }
    said = {silo: (joining[at % len(joining)], verdicts[at % 4]) for at, silo in enumerate(silos)}
    comparison = {
        "fedtl": "0.1.0", "task": "regression" if task == "regression" else "classification", "metric": metric,
        "seeds": [0, 1, 2], "rounds": 20, "model": "convnet", "methods": table, "warnings": [], "seconds": 123.4,
        "chosen_on": "validation rows", "benefit": {}, "over_local": {},
        "mean": {method: {metric: a_figure(0.7654) | {"silos": len(silos)}} for method in methods},
        "worst": {method: {"silo": silos[1], metric: 0.5432, "silos": len(silos)} for method in methods},
    }  # fmt: skip
    if "local" in methods:
        comparison["benefit"] = {
            silo: {
                **{"best": best, "over_local": gain[how][0], "ci95": gain[how][1], "verdict": how},
                **{"p": 0.03, "p_as_good": 0.2, "detectable": 0.0617, "margin": 0.01},
            }
            for silo, (best, how) in said.items()
        }
        comparison["over_local"] = {
            m: {s: {"mean": 0.0271, "ci95": [-0.01, 0.06]} for s in silos} for m in joining
        }
        whole = overall(len(silos), silos[1])
        comparison |= {"overall": dict.fromkeys(joining, whole), "joining": whole, "margin": 0.01}
    if extras:
        comparison["warnings"] = [
            f"fedavg is worse than local at {silos[1]} by 0.05 (95 % interval 0.02 to 0.08)"
        ]
        row = {metric: {"mean": 0.8765, "seeds": [0.8765]}}
        comparison["target"] = {methods[-1]: {silos[0]: {"target": row, "target_adabn": row}}}
        comparison["late"] = {methods[-1]: {silos[-1]: dict.fromkeys(LATE_ROWS, row)}}
    return comparison


CURVES = {method: Curve([0.3 + 0.02 * at, 0.6, 0.8], [6, 6, 6]) for at, method in enumerate(METHODS)}


def gain_of(comparison, silo):
    its = comparison["benefit"][silo]
    return format_short_difference(comparison["metric"], its["over_local"], its["ci95"])


def printed(table, width=100):
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    assert all(len(line) <= width for line in text.splitlines())
    return text


class Reader(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def assert_self_contained(page):
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http://" not in bare
    assert "https://" not in bare
    read = Reader(page)
    assert not {"script", "link", "iframe", "img", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    for name, value in read.attributes:
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#")
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert read.tags.count("table") == read.tags.count("caption")
    assert read.tags.count("svg") == sum(
        1 for name, value in read.attributes if name == "aria-label" and value
    )
    return read.text


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


# Every task with every kind of names; every second page without what a run may lack.
PAGES = [
    pytest.param(task, silos, (column + row) % 2 == 0, id=f"{task}-{name}")
    for row, task in enumerate(MAIN)
    for column, (name, silos) in enumerate({"six": SILOS, "forty": MANY, "hostile": HOSTILE}.items())
]


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
        f"{format_value(metric, result['mean'][metric])}; worst: {format_value(metric, result['worst'][metric])} at"
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


def test_a_missing_interval_is_not_shown():
    comparison = a_comparison()
    comparison["benefit"]["plain"] |= {"ci95": None, "verdict": "unclear"}
    for its in comparison["methods"].values():
        its["plain"]["accuracy"]["ci95"] = None
    assert_self_contained(compare_page(comparison, CURVES, TOML))
    line = next(line for line in printed(compare_table(comparison)).splitlines() if line.startswith("plain"))
    assert "…" not in line.replace(gain_of(comparison, "plain"), "")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: learning_curves(a_history()),
        lambda: learning_curves(a_history("regression", MANY)),
        lambda: learning_curves([]),
        lambda: silo_bars(a_result()),
        lambda: silo_bars(a_result("regression", MANY)),
        lambda: benefit_forest(a_comparison()),
        lambda: benefit_forest(a_comparison("regression", MANY + [f"more-{at}" for at in range(20)])),
        lambda: mean_gains(a_comparison()),
        lambda: method_dots(a_comparison()),
        lambda: method_dots(a_comparison("regression", MANY)),
        lambda: convergence(CURVES, 6),
        lambda: convergence({}, 6),
    ],
)
def test_a_plot_is_one_svg_that_repeats_and_leaves_matplotlib_as_it_was(draw):
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg = draw()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == draw()
    assert dict(matplotlib.rcParams) == before


def test_a_plot_names_every_silo_and_every_method():
    comparison = a_comparison()
    del comparison["methods"]["fedtl, from scratch"][sorted(SILOS)[0]]
    words = set(ElementTree.fromstring(method_dots(comparison)).itertext())
    assert {*SILOS, *METHODS} <= words
    words = set(ElementTree.fromstring(learning_curves(a_history(silos=HOSTILE))).itertext())
    assert {*HOSTILE, "mean (4 to 5 of 6)"} <= words


def text_of(page):
    return " ".join(Reader(page).text.split())


def a_claim(**changes):
    its = {
        "private": True,
        "unit": "record",
        "adjacency": "zero-out, n is public",
        "tuning": "public",
        "metrics": [],
    }
    return {**its, "statistics": "dp", **changes}


SPENT = {
    **{"epsilon": 2.5, "delta": 1e-5, "epsilon_replace_one": 4.75, "unit": "record", "adjacency": "zero-out"},
    **{
        "units": 180,
        "clip": 1.0,
        "noise_multiplier": 1.0,
        "sample_rate": 1.0,
        "steps_a_round": 2,
        "rounds": 3,
    },
}


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


def with_one_silo_less():
    result, comparison = a_result("binary"), a_comparison("binary")
    del result["silos"]["plain"]["auc"]
    result["silos"]["plain"]["absent"] = {"auc": "all 60 rows have the same class"}
    result["mean_silos"]["auc"] = 5
    del comparison["methods"]["fedavg"]["plain"]["accuracy"]
    comparison["absent"] = {"fedavg": {"plain": {"accuracy": "the scores of 3 of 60 rows are not finite"}}}
    comparison["mean"]["fedavg"]["accuracy"]["silos"] = comparison["worst"]["fedavg"]["silos"] = 5
    return result, comparison


def test_a_missing_figure_has_a_reason_and_a_mean_over_fewer_silos_is_marked():
    result, comparison = with_one_silo_less()
    mean = f"{format_value('auc', result['mean']['auc'])} (5 of 6)"
    for text in (printed(run_table(result)), text_of(run_words(result, a_history(), ""))):
        assert "no AUC at plain: all 60 rows have the same class" in text
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


def test_a_whole_silo_that_cannot_be_compared_is_counted():
    comparison = a_comparison(silos=SILOS[:4])
    del comparison["benefit"]["plain"]
    page = compare_words(comparison, CURVES, TOML)
    assert (
        "0 of 3 silos are shown to gain by joining; rotated is as good as alone; textured loses; faint is unclear; 1 more cannot "
        "be compared." in page
    )


def test_curves_say_what_they_show_and_over_how_many_silos():
    words = set(ElementTree.fromstring(convergence(CURVES, 6)).itertext())
    assert any("the dots: the finished models" in word for word in words)
    assert METHODS[0] in words
    some = {"fedavg": Curve([0.1, 0.2, 0.3], [2, 4, 6])}
    assert "fedavg (2 to 6 of 6)" in set(ElementTree.fromstring(convergence(some, 6)).itertext())
    released = " ".join(ElementTree.fromstring(convergence(CURVES, 6, private=True)).itertext())
    assert "released accuracy" in released
    assert "finished models" not in released


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


def a_tuning(values, chosen):
    trials = [{"settings": {"train.lr": lr}, "loss": loss} for lr, loss in values.items() if loss is not None]
    trials += [
        {"settings": {"train.lr": lr}, "loss": None, "failed": "a: not finite"}
        for lr in values
        if values[lr] is None
    ]
    return [{"seed": 0, "chosen": {"train.lr": chosen}, "trials": trials}]


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


def cells_of(page):
    """The text of a page, with a space between two cells of a table."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_each_seed_may_choose_for_itself():
    tuning = [a_tuning({0.01: 0.5, 0.1: 0.25}, 0.1)[0] | {"seed": seed} for seed in (0, 1)]
    tuning[1]["chosen"] = {"train.lr": 0.01}
    comparison = a_comparison(methods=["local", "fedavg"], extras=False) | {"tuning": {"local": tuning}}
    page = text_of(compare_words(comparison, CURVES, TOML))
    assert "2 trials under each seed" in page
    assert "local train.lr = 0.1 / train.lr = 0.01" in page


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
    assert "With one seed, intervals do not contain" in text
    assert "each seed did 5 runs" in text


def test_one_round_is_one_round():
    assert "1 round:" in printed(run_table(a_result() | {"rounds": 1}))
    assert "1 round, seed" in run_words(a_result() | {"rounds": 1}, a_history(), "")
    assert "1 round<" in compare_words(a_comparison() | {"rounds": 1}, {}, "")


def test_a_choice_that_differs_between_runs_is_told():
    comparison = a_comparison()
    comparison["benefit"]["plain"]["chosen"] = {"fedavg": 2, "fedbn": 1}
    assert "fedavg (2 of 3)" in text_of(compare_words(comparison, CURVES, ""))


def test_under_privacy_with_folds_it_is_told_in_how_many_runs_a_unit_is_trained_on():
    comparison = a_comparison() | {"privacy": a_claim(unit="patient", epsilon=3.0), "folds": 5}
    page = text_of(compare_words(comparison, {}, ""))
    assert "each patient is trained on in 4 of the 5 runs of a seed" in page
    assert "epsilons add up" in page


def test_the_answer_says_what_averaging_alone_gives():
    """A reader of one sentence must not take for a gain of joining what two local models give."""
    comparison = a_comparison()
    assert "without joining" not in text_of(compare_words(comparison, CURVES, ""))
    comparison["overall"]["local ensemble"] = comparison["overall"]["fedavg"]
    assert "trained alone gives +1.7 points without joining." in text_of(
        compare_words(comparison, CURVES, "")
    )


def test_constant_answers_do_not_press_the_methods_of_a_plot_together():
    comparison = a_comparison(methods=["local", "fedavg"])
    plain = method_dots(comparison)
    comparison["methods"]["constant"] = comparison["methods"]["local"]
    assert method_dots(comparison) == plain


def test_an_interval_in_a_cell_is_never_broken_and_its_text_is_escaped():
    assert whole_intervals("<b> 58.6 57…60") == '&lt;b&gt; 58.6 <span class="whole">57…60</span>'
    assert whole_intervals("+1.7 [-1.2, +2.3] x") == '+1.7 <span class="whole">[-1.2, +2.3]</span> x'
    assert whole_intervals("0.306 to 0.563") == '<span class="whole">0.306 to 0.563</span>'
    assert whole_intervals("[a, b], 5 to the end") == "[a, b], 5 to the end"


def test_a_title_that_is_longer_than_its_axes_begins_further_left():
    """Long names of rows leave little room for the axes, at which a title begins."""
    figure, axes = new_figure(2.0)
    label_rows(axes, ["a long name of a row " * 2])
    label_axes(axes, "w" * 45, "", "")
    to_svg(figure, "long")
    end = next(one for one in axes.get_children() if getattr(one, "get_text", str)() == "w" * 45)
    assert end.get_window_extent().x0 >= 0
    assert end.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("mean", "ends", "shown"),
    [(0.95, (0.89, 1.0), "95.0 89…100"), (0.999, (0.9961, 1.0), "99.9 99.6…100.0"), (0.124, (0.1, 0.1241), "12.4 10.0…12.4")],
)  # fmt: skip
def test_rounded_ends_of_an_interval_do_not_exclude_its_mean(mean, ends, shown):
    assert format_with_interval("accuracy", Estimate(mean, ends, (mean,))) == shown
    signed = "+" + shown.replace(" ", " +").replace("…", "…+")
    assert format_short_difference("accuracy", mean, ends) == signed
