"""Results, comparisons and pages for tests of tables, plots and pages; and what reads a page."""

import pytest

from fedtl._util.records import from_plain
from fedtl.report import compare_page as comparison_pages
from fedtl.report import compare_tables, gain_plots, plots, tables
from fedtl.report import run_page as run_pages
from fedtl.report.figures import LATE_ROWS, Curve, format_short_difference
from fedtl.results.comparison import Comparison
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


# Every task with every kind of names; every second page without what a run may lack.
PAGES = [
    pytest.param(task, silos, (column + row) % 2 == 0, id=f"{task}-{name}")
    for row, task in enumerate(MAIN)
    for column, (name, silos) in enumerate({"six": SILOS, "forty": MANY, "hostile": HOSTILE}.items())
]


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


def with_one_silo_less():
    result, comparison = a_result("binary"), a_comparison("binary")
    del result["silos"]["plain"]["auc"]
    result["silos"]["plain"]["absent"] = {"auc": "all 60 rows have the same class"}
    result["mean_silos"]["auc"] = 5
    del comparison["methods"]["fedavg"]["plain"]["accuracy"]
    comparison["absent"] = {"fedavg": {"plain": {"accuracy": "the scores of 3 of 60 rows are not finite"}}}
    comparison["mean"]["fedavg"]["accuracy"]["silos"] = comparison["worst"]["fedavg"]["silos"] = 5
    return result, comparison


def a_tuning(values, chosen):
    trials = [{"settings": {"train.lr": lr}, "loss": loss} for lr, loss in values.items() if loss is not None]
    trials += [
        {"settings": {"train.lr": lr}, "loss": None, "failed": "a: not finite"}
        for lr in values
        if values[lr] is None
    ]
    return [{"seed": 0, "chosen": {"train.lr": chosen}, "trials": trials}]
