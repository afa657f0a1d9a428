"""The HTML page of one run, from its result.json, history.jsonl and experiment.toml. Computes no figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedtl.report import plots
from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    format_value,
    measured_metrics,
    missing_in_run,
    silo_count_note,
)
from fedtl.report.html import Grid, plot, render, row
from fedtl.report.page_notes import STATISTICS, run_guarantee
from fedtl.report.page_tables import late_grid, refitted_grid, target_grid


def run_page(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], experiment_toml: str) -> str:
    """Return the page. ``result``: result.json. ``history``: the lines of history.jsonl."""
    drawn = []
    if any(figures for line in history for figures in line["silos"].values()):  # a private run may have none
        drawn.append(plot("Validation by round", plots.learning_curves(history, bool(result.get("privacy")))))
    drawn.append(plot("Test result of each silo", plots.silo_bars(result)))
    return render(
        "page.html.j2",
        title=f"{result['method']} on {result['model']}, {result['rounds']} rounds, seed {result['seed']}",
        answer=_answer(result),
        warnings=[*_left_out(result), *result.get("notes", [])],
        main=_main_grid(result),
        details=None,
        refitted=_refitted_grid(result),
        plots=drawn,
        target=_target_grid(result),
        late=_late_grid(result),
        notes=[
            *missing_in_run(result),
            "Test rows were read once, after the last round. In the mean over silos each silo has the same weight.",
            STATISTICS,
            "Validation rows are taken from each silo's training rows and are never trained on.",
            f"The silos sent {result['bytes_up']:,} bytes and received {result['bytes_down']:,}. The run took "
            f"{result['seconds']:.1f} s on {result['device']} with {result['workers']} "
            f"worker{'s' * (result['workers'] != 1)}.",
            run_guarantee(result.get("privacy")),
        ],
        experiment=experiment_toml,
        version=result["fedtl"],
    )


def _answer(result: Mapping[str, Any]) -> str:
    metric, worst = result["metric"], result.get("worst")
    count = silo_count_note(result["mean_silos"].get(metric), len(result["silos"]))
    mean = f"Mean test {TITLES[metric]}: {format_value(metric, result['mean'].get(metric))}{count}"
    if not worst:
        return f"{mean}."
    return f"{mean}; worst: {format_value(metric, worst.get(metric))}{count} at {worst['silo']}."


def _left_out(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was left out {len(reasons)} time{'s' * (len(reasons) > 1)}, most recently in {reasons[-1]}"
        for name, reasons in result.get("left_out", {}).items()
    ]


def _main_grid(result: Mapping[str, Any]) -> Grid:
    silos, metrics = result["silos"], measured_metrics(result["silos"])
    head = ["silo", "training rows", "validation rows", "test rows", *(TITLES[metric] for metric in metrics)]
    rows = [
        row(
            name,
            *(silo[part] for part in ("train", "val", "test")),
            *(format_value(metric, silo.get(metric)) for metric in metrics),
        )
        for name, silo in silos.items()
    ]
    means = (
        format_value(metric, result["mean"].get(metric))
        + silo_count_note(result["mean_silos"].get(metric), len(silos))
        for metric in metrics
    )
    rows.append(row("mean", "", "", "", *means))
    return Grid("Test results of each silo's own model", head, rows, summary_rows=1)


def _refitted_grid(result: Mapping[str, Any]) -> Grid:
    metric = result["metric"]
    rows = [
        row(name, format_value(metric, silo.get(metric)), format_value(metric, silo["refitted"].get(metric)))
        for name, silo in result["silos"].items()
        if "refitted" in silo
    ]
    return refitted_grid(metric, ["silo"], rows)


def _target_grid(result: Mapping[str, Any]) -> Grid:
    metric, variants = result["metric"], ("target", "target_adabn")
    rows = [
        row(name, *(format_value(metric, silo.get(variant, {}).get(metric)) for variant in variants))
        for name, silo in result["silos"].items()
        if any(variant in silo for variant in variants)
    ]
    return target_grid(metric, ["silo"], rows)


def _late_grid(result: Mapping[str, Any]) -> Grid:
    metric = result["metric"]
    rows = [
        row(silo, LATE_ROWS[variant], format_value(metric, figures.get(metric)))
        for silo, variants in result.get("late", {}).items()
        for variant, figures in variants.items()
    ]
    return late_grid(metric, ["silo"], rows)
