"""The table of a comparison on compressed updates: bytes saved and accuracy lost."""

from rich.table import Table
from rich.text import Text

from fedtl.report.figures import TITLES, format_difference
from fedtl.report.html import Cell, Grid
from fedtl.report.tables import titled_table
from fedtl.report.verdict_tables import verdict_cell
from fedtl.results.comparison import Comparison, WireCost

HOW = (
    "Weights in fewer bytes (wire.dtype) are compared with the same method that sends them in full: bytes that all silos sent in "
    "a run, and the mean difference over silos. A silo never chooses between the two."
)


def wire_table(comparison: Comparison) -> Table:
    """Return the table for the terminal."""
    table = titled_table("weights in fewer bytes, and in full", *_head(comparison))
    for label, cost in comparison.wire.items():
        verdict = cost.gain.verdict if cost.gain else ""
        table.add_row(*map(Text, (*_figures(comparison, label, cost), verdict)))
    return table


def wire_grid(comparison: Comparison) -> Grid:
    """Return the table for the page."""
    rows = [
        [
            *map(Cell, _figures(comparison, label, cost)),
            verdict_cell(cost.gain.verdict) if cost.gain else Cell(""),
        ]
        for label, cost in comparison.wire.items()
    ]
    return Grid("Weights in fewer bytes, and in full", _head(comparison), rows)


def _head(comparison: Comparison) -> list[str]:
    return ["method", "form", "bytes sent", "times fewer", f"{TITLES[comparison.metric]} minus in full", ""]


def _figures(comparison: Comparison, label: str, cost: WireCost) -> tuple[str, ...]:
    gain = cost.gain
    difference = format_difference(comparison.metric, gain.mean, gain.ci95) if gain else "-"
    times = f"{cost.bytes_full / cost.bytes_up:.1f}" if cost.bytes_up else "-"
    return label, cost.form, f"{cost.bytes_up:,}", times, difference
