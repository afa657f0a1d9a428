"""Tables of a run for the terminal, from result.json. Names are text, never markup."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl._util.counted import counted
from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    format_value,
    measured_metrics,
    missing_in_run,
    silo_count_note,
)
from fedtl.report.html import Grid
from fedtl.report.wording import format_delta, format_epsilon, not_covered
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import RunResult

NOT_PRIVATE = "NOT PRIVATE: the noise can be computed again"
MAX_UNFOLDED = 28  # characters of a silo's name; a column with longer names may fold them


def run_table(result: RunResult) -> Table:
    """The result of a run: one row per silo, then the mean and the worst silo."""
    silos, metrics = result.silos, measured_metrics(result)
    table = titled_table(
        f"{result.method} on {result.model}, {counted(result.rounds, 'round')}: test results of each silo"
    )
    table.add_column("silo", overflow="fold")
    for heading in ("train", "test", *(TITLES[metric] for metric in metrics)):
        table.add_column(heading, justify="right")
    for name, silo in silos.items():
        row = (format_value(metric, silo.measured.figures.get(metric)) for metric in metrics)
        table.add_row(Text(name), str(silo.train), str(silo.test), *row)
    table.add_section()
    means, counts = result.mean, result.mean_silos
    mean = (
        format_value(metric, means.get(metric)) + silo_count_note(counts.get(metric), len(silos))
        for metric in metrics
    )
    table.add_row("mean", "", "", *mean, style="bold")
    if result.worst.silo:
        count, worst = silo_count_note(result.worst.silos, len(silos)), result.worst.figures
        cells = (format_value(metric, worst[metric]) + count if metric in worst else "" for metric in metrics)
        table.add_row(Text(f"worst: {result.worst.silo}"), "", "", *cells)
    put_caption(table, missing_in_run(result))
    return table


def put_caption(table: Table, lines: list[str]) -> None:
    """Put lines below a table."""
    if lines:
        table.caption, table.caption_justify = Text("\n".join(lines)), "left"


def late_table(result: RunResult) -> Table:
    """Silos that took no part in training: one row for each way to use the received model."""
    metric = result.metric
    table = titled_table("silos that joined after training", "silo", "model", TITLES[metric])
    for name, rows in result.late.items():
        for row, measured in rows.items():
            table.add_row(Text(name), LATE_ROWS[row], format_value(metric, measured.figures.get(metric)))
    return table


def privacy_table(privacy: PrivacyReport) -> Table:
    """The privacy guarantee of each silo, planned or spent, and its noise."""
    silos = privacy.silos or {}
    protected = f"of each {privacy.unit}" if privacy.private else NOT_PRIVATE
    title = f"differential privacy: {protected}; tuning: {privacy.tuning}"
    caption = (
        f"epsilon: {privacy.adjacency}; replace-one: the same guarantee for replace-one adjacency. "
        f"{not_covered(privacy.unit)}"
    )
    table = Table(
        title=title, caption=caption, box=SIMPLE_HEAD, padding=0, show_edge=False,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    table.add_column("silo", overflow="fold", no_wrap=all(len(name) <= MAX_UNFOLDED for name in silos))
    for heading in (
        f"{privacy.unit}s",
        "epsilon",
        "delta",
        "replace-one",
        "noise",
        "rate",
        "steps",
        "statistics",
        *(("summary",) if any(one.summary_noise for one in silos.values()) else ()),
    ):
        table.add_column(heading, justify="right")
    for name, guarantee in silos.items():
        deviation = guarantee.statistics_expected_noise
        table.add_row(
            Text(name),
            str(guarantee.units),
            format_epsilon(guarantee.epsilon),
            format_delta(guarantee.delta),
            format_epsilon(guarantee.epsilon_replace_one),
            f"{guarantee.noise_multiplier:.3f}",
            f"{guarantee.sample_rate:.3f}",
            str(guarantee.steps_a_round * guarantee.rounds),
            "" if deviation is None else f"± {deviation:.2f}",
            *(() if (summary := guarantee.summary_expected_noise) is None else (f"± {summary:.2g}",)),
        )
    return table


def titled_table(title: str, *columns: str) -> Table:
    """A table with a title, which is text and not markup."""
    return Table(*columns, title=Text(title), title_style="italic")


def grid_table(grid: Grid) -> Table:
    """The table of a page, for the terminal."""
    table = titled_table(grid.caption)
    for number, heading in enumerate(grid.head):
        table.add_column(heading, justify="right" if number else "left")
    for cells in grid.rows:
        table.add_row(*(Text(str(cell.text)) for cell in cells))
    return table
