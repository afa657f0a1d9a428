"""Tables for the terminal, from what result.json and comparison.json hold."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl.report.figures import TITLES, half_interval, one

COLOURS = {"gains": "green", "loses": "red", "unclear": "yellow"}
SHOWN = ("accuracy", "balanced_accuracy", "auc", "r2", "rmse", "loss")


def run_table(result: Mapping[str, Any]) -> Table:
    """A row a silo, then the mean and the worst."""
    silos = result["silos"]
    metrics = [metric for metric in SHOWN if any(metric in its for its in silos.values())]
    table = Table(
        title=f"{result['method']} on {result['model']}, {result['rounds']} rounds: test rows of each silo"
    )
    table.add_column("silo")
    for heading in ("train", "test", *(TITLES[metric] for metric in metrics)):
        table.add_column(heading, justify="right")
    for name, its in silos.items():
        row = (one(metric, its.get(metric)) for metric in metrics)
        table.add_row(Text(name), str(its["train"]), str(its["test"]), *row)
    table.add_section()
    mean = (one(metric, result["mean"].get(metric)) for metric in metrics)
    table.add_row("mean", "", "", *mean, style="bold")
    if worst := result.get("worst"):
        cells = (one(metric, worst.get(metric)) if metric in worst else "" for metric in metrics)
        table.add_row(Text(f"worst: {worst['silo']}"), "", "", *cells)
    return table


def late_table(late: Mapping[str, Any], metric: str) -> Table:
    """A row for each way in which a silo that did not train can use what it received."""
    table = Table("silo", "model", TITLES[metric], title="silos that joined late")
    for name, rows in late.items():
        for row, figures in rows.items():
            table.add_row(Text(name), LATE_ROWS[row], one(metric, figures.get(metric)))
    return table


def compare_table(comparison: Mapping[str, Any]) -> Table:
    """A row a silo, a column a method, and whether joining helped."""
    metric, methods = comparison["metric"], comparison["methods"]
    silos = sorted({silo for figures in methods.values() for silo in figures})
    benefit = comparison.get("benefit", {})
    seeds = len(comparison["seeds"])
    title = (
        f"test {TITLES[metric]}, mean of {seeds} seed{'s' * (seeds > 1)}; over local ± half a 95 % interval"
    )
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    table.add_column("silo", no_wrap=True, min_width=8)
    for method in methods:
        table.add_column(Text(method), justify="right")
    if benefit:
        for heading in ("best", "over local", "joining"):
            table.add_column(heading, no_wrap=True)
    for silo in silos:
        its = benefit.get(silo)
        cells = [
            Text(
                one(metric, figures.get(silo, {}).get(metric, {}).get("mean")),
                style="bold" if its and its["best"] == method else "",
            )
            for method, figures in methods.items()
        ]
        said = (
            []
            if not benefit
            else ["", "", ""]
            if its is None
            else [
                its["best"],
                Text(half_interval(metric, its)),
                Text(its["verdict"], style=COLOURS[its["verdict"]]),
            ]
        )
        table.add_row(Text(silo), *cells, *said)
    table.add_section()
    means = [one(metric, comparison["mean"][method].get(metric, {}).get("mean")) for method in methods]
    table.add_row("mean", *means, style="bold")
    worst = [one(metric, comparison["worst"][method].get(metric)) for method in methods]
    table.add_row("worst", *worst)
    return table


def target_table(comparison: Mapping[str, Any]) -> Table:
    """The unlabelled domain: each method as it is, and with AdaBN on that domain's inputs."""
    metric = comparison["metric"]
    table = Table("method", title=f"the unlabelled domain: {TITLES[metric]}, mean over silos")
    table.add_column("as trained", justify="right")
    table.add_column("with AdaBN", justify="right")
    for method, silos in comparison["target"].items():
        cells = []
        for row in ("target", "target_adabn"):
            values = [its[row][metric]["mean"] for its in silos.values() if metric in its.get(row, {})]
            cells.append(one(metric, sum(values) / len(values) if values else None))
        table.add_row(Text(method), *cells)
    return table


def late_compare_table(comparison: Mapping[str, Any]) -> Table:
    """Silos that joined late, by method."""
    metric = comparison["metric"]
    table = Table("silo", "method", "model", TITLES[metric], title="silos that joined late")
    for method, silos in comparison["late"].items():
        for silo, rows in silos.items():
            for row, figures in rows.items():
                table.add_row(
                    Text(silo), Text(method), LATE_ROWS[row], one(metric, figures.get(metric, {}).get("mean"))
                )
    return table


LATE_ROWS = {
    "as_received": "as it came",
    "adabn": "after AdaBN",
    "head": "own head, initial statistics",
    "head_adabn": "own head after AdaBN",
    "alone": "trained alone on the same labels",
}
