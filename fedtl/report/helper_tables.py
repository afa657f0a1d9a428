"""The table of who helps whom, and how to read it."""

from rich.table import Table
from rich.text import Text

from fedtl._util.counted import counted
from fedtl.report.figures import TITLES, difference_unit, format_difference, format_short_difference
from fedtl.report.html import Cell, Grid
from fedtl.report.tables import titled_table
from fedtl.report.verdict_tables import verdict_cell
from fedtl.results.comparison import Comparison, Gain, Verdict, WhoHelps

TO_OTHERS = "the others, in the mean"


def helper_grid(comparison: Comparison) -> Grid:
    """Return a row for each silo that was left out: its mean worth to the others, and what it is worth to each of them."""
    own, metric = comparison.who_helps, comparison.metric
    caption = f"Who helps whom: test {TITLES[metric]} with the silo minus without it, in {difference_unit(metric).removeprefix('in ')}"
    if own is None:
        return Grid(caption, [], [])
    scored = sorted({name for gains in own.gains.values() for name in gains})
    rows = [
        [
            Cell(name),
            _cell(metric, own.to_others.get(name)),
            *(_cell(metric, gains.get(other)) for other in scored),
        ]
        for name, gains in own.gains.items()
    ]
    return Grid(caption, ["the silo that helps", TO_OTHERS, *(f"at {name}" for name in scored)], rows)


def helper_table(comparison: Comparison) -> Table:
    """Return for the terminal what each silo is worth to the others in the mean, and where most and least."""
    own, metric = comparison.who_helps, comparison.metric
    title = f"who helps whom, by {own.column if own else ''}: test {TITLES[metric]} with the silo minus without it"
    table = titled_table(title, "the silo that helps", TO_OTHERS, "most", "least")
    for name, gains in own.gains.items() if own else ():
        ordered = sorted(gains, key=lambda other: (-gains[other].mean, other))
        mean = own.to_others.get(name) if own else None
        ends = (
            f"{other} {format_short_difference(metric, gains[other].mean, gains[other].ci95)}"
            for other in (ordered[:1] + ordered[-1:])
        )
        table.add_row(
            *map(
                Text, (name, "-" if mean is None else format_difference(metric, mean.mean, mean.ci95), *ends)
            )
        )
    return table


def _cell(metric: str, gain: Gain | None) -> Cell:
    if gain is None:
        return Cell("-")
    css_class = verdict_cell(gain.verdict).css_class if gain.verdict in (Verdict.GAINS, Verdict.LOSES) else ""
    return Cell(format_difference(metric, gain.mean, gain.ci95), css_class)


def helper_note(own: WhoHelps, seeds: int) -> str:
    """Return how the table and its plot are made, and what noise is in them."""
    pairs = sum(map(len, own.gains.values()))
    noise = (
        "With one seed, no interval contains how much a result changes from one training to the next, and here two trainings are compared: "
        "differences of a few points may be chance. Compare at least 3 seeds."
        if seeds == 1
        else f"Intervals contain how test rows vary and how the {seeds} seeds vary; both trainings of a pair add to the latter."
    )
    return (
        f"Who helps whom: each silo in turn is left out, and {own.column} trains again without it, with the same seeds, settings and test rows. "
        f"Above zero, the silo in the row helps the one in the column. An interval is for one cell alone; * and colour in the table mark what stays "
        f"different from zero after correction for {counted(pairs, 'cell')} (Benjamini and Hochberg, 1995). {noise}"
    )
