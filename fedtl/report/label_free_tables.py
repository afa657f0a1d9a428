"""The table of a comparison for silos without labels: each method against the shared model, and the one that a silo takes."""

from rich.table import Table
from rich.text import Text

from fedtl.report.figures import TITLES, format_difference
from fedtl.report.html import Cell, Grid
from fedtl.report.tables import titled_table
from fedtl.report.verdict_tables import verdict_cell
from fedtl.results.comparison import Comparison, Gain

HEAD = ("silo", "method", "minus silobn", "")
HOW = (
    "At a silo without labels nothing can be trained alone; methods are compared with silobn, the shared model with the silo's own "
    "statistics (AdaBN). Which method the silo takes is chosen without its labels, on its training and validation rows: the one whose "
    "trainings with different seeds give the most rows the same answer (Jiang et al., 2022); with one seed silobn; where values are "
    "predicted, the one nearest to the mean of all."
)


def label_free_table(comparison: Comparison) -> Table:
    """Return the table for the terminal."""
    metric = comparison.metric
    table = titled_table(f"silos without labels: {TITLES[metric]} (* taken, chosen without labels)", *HEAD)
    for silo, method, gain in _rows(comparison):
        table.add_row(Text(silo), Text(method), *(map(Text, _gain(metric, gain))))
    return table


def label_free_grid(comparison: Comparison) -> Grid:
    """Return the table for the page."""
    metric = comparison.metric
    rows = [
        [
            Cell(silo),
            Cell(method),
            Cell(_gain(metric, gain)[0]),
            verdict_cell(gain.verdict) if gain else Cell(""),
        ]
        for silo, method, gain in _rows(comparison)
    ]
    return Grid(f"Silos without labels, {TITLES[metric]}; * taken", list(HEAD), rows)


def _rows(comparison: Comparison) -> list[tuple[str, str, Gain | None]]:
    """Return for each silo what it takes, and each method with its gain."""
    rows: list[tuple[str, str, Gain | None]] = []
    for silo, choice in comparison.label_free.items():
        times = choice.chosen.get(choice.best)
        often = f" ({times} of {sum(choice.chosen.values())})" if times else ""
        rows.append((silo, f"* {choice.best}{often}", choice.gain))
        for method, gains in comparison.over_source.items():
            if silo in gains:
                rows.append((silo, method, gains[silo]))
    return rows


def _gain(metric: str, gain: Gain | None) -> tuple[str, str]:
    if gain is None:
        return "-", "silobn is not compared"
    return format_difference(metric, gain.mean, gain.ci95), gain.verdict
