"""Tables for the terminal, from result.json, comparison.json and audit.json. Names are text, never markup."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    all_silos,
    format_average,
    format_short_difference,
    format_value,
    format_with_interval,
    measured_metrics,
    missing_in_comparison,
    missing_in_run,
    silo_count_note,
)
from fedtl.report.trials import trial_lines, yardstick_lines
from fedtl.report.wording import not_covered
from fedtl.results.comparison import Averages, Benefit, Comparison, Estimate, Verdict
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import RunResult

NOT_PRIVATE = "NOT PRIVATE: the noise can be computed again"
COLOURS = {Verdict.GAINS: "green", Verdict.LOSES: "red", Verdict.UNCLEAR: "yellow"}
MAX_UNFOLDED = 28  # characters of a silo's name; a column with longer names may fold them


def run_table(result: RunResult) -> Table:
    """The result of a run: one row per silo, then the mean and the worst silo."""
    silos, metrics = result.silos, measured_metrics(result)
    table = _table(f"{result.method} on {result.model}, {result.rounds} rounds: test results of each silo")
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
    _caption(table, missing_in_run(result))
    return table


def _caption(table: Table, lines: list[str]) -> None:
    """Put lines below a table."""
    if lines:
        table.caption, table.caption_justify = Text("\n".join(lines)), "left"


def late_table(result: RunResult) -> Table:
    """Silos that took no part in training: one row for each way to use the received model."""
    metric = result.metric
    table = _table("silos that joined after training", "silo", "model", TITLES[metric])
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
            f"{guarantee.epsilon:.3f}",
            f"{guarantee.delta:.0e}",
            f"{guarantee.epsilon_replace_one:.3f}",
            f"{guarantee.noise_multiplier:.3f}",
            f"{guarantee.sample_rate:.3f}",
            str(guarantee.steps_a_round * guarantee.rounds),
            "" if deviation is None else f"± {deviation:.2f}",
            *(() if (summary := guarantee.summary_expected_noise) is None else (f"± {summary:.2g}",)),
        )
    return table


def compare_table(comparison: Comparison) -> Table:
    """
    A comparison: one row per silo, one column per method, and whether joining helped.

    If the terminal is too narrow, an interval goes below its mean; no number is cut off.
    """
    metric, methods = comparison.metric, comparison.methods
    benefit, seeds = comparison.benefit, len(comparison.seeds)
    title = f"test {TITLES[metric]}, mean of {seeds} seed{'s' * (seeds > 1)} and its 95 % interval (low…high)"
    table = Table(
        title=title, box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left",
    )  # fmt: skip
    told = [*_claimed(comparison), *trial_lines(comparison), *yardstick_lines(comparison)]
    _caption(table, [*told, *missing_in_comparison(comparison)])
    table.add_column(
        "silo", overflow="fold", no_wrap=all(len(name) <= MAX_UNFOLDED for name in all_silos(comparison))
    )
    for method in methods:
        table.add_column(Text(method), justify="right", overflow="fold")
    if benefit:
        table.add_column("best", overflow="fold")
        table.add_column("over local", overflow="fold")
        table.add_column("joining", no_wrap=True)
    silos = all_silos(comparison)
    for silo in silos:
        verdict = benefit.get(silo)
        cells = [
            Text(
                format_with_interval(metric, figures.get(silo, {}).get(metric)),
                style="bold" if verdict and verdict.best == method else "",
            )
            for method, figures in methods.items()
        ]
        table.add_row(Text(silo), *cells, *(_benefit(metric, verdict) if verdict else ()))
    table.add_section()
    _add_summary_rows(table, comparison, len(silos))
    return table


def _add_summary_rows(table: Table, comparison: Comparison, silos: int) -> None:
    """Add the mean over silos and the worst silo of each method."""
    metric = comparison.metric
    means = (comparison.mean[method].get(metric) for method in comparison.methods)
    worst = (comparison.worst[method] for method in comparison.methods)
    table.add_row(
        "mean", *(format_with_interval(metric, mean) + _over(mean, silos) for mean in means), style="bold"
    )
    table.add_row(
        "worst",
        *(
            format_value(metric, silo.figures.get(metric)) + silo_count_note(silo.silos or None, silos)
            for silo in worst
        ),
    )
    if comparison.epochs:
        table.add_row("epochs", *(str(comparison.epochs.get(method, "-")) for method in comparison.methods))


def _over(mean: Estimate | None, silos: int) -> str:
    return silo_count_note(mean.silos, silos) if mean else ""


def refitted_table(comparison: Comparison) -> Table:
    """Models before they are fitted at home, scored with shared normalisation statistics and with each silo's own."""
    metric, silos = comparison.metric, len(all_silos(comparison))
    table = _table(
        f"statistics of the models after the last round: {TITLES[metric]}, mean over silos", "method"
    )
    table.add_column("shared", justify="right")
    table.add_column("each silo's own", justify="right")
    for method, by_silo in comparison.refitted.items():
        received, shared = comparison.received.get(method), comparison.mean[method].get(metric)
        cells = format_value(metric, shared.mean if shared else None) + _over(shared, silos)
        before = _mean(metric, received.values(), silos) if received else cells
        table.add_row(Text(method), before, _mean(metric, by_silo.values(), silos))
    return table


def _mean(metric: str, rows: Iterable[Averages], silos: int) -> str:
    """The mean over the silos that have the metric, with their number if it is not all."""
    values = [row.figures[metric].mean for row in rows if metric in row.figures]
    if not values:
        return "-"
    return format_value(metric, sum(values) / len(values)) + silo_count_note(len(values), silos)


def target_table(comparison: Comparison) -> Table:
    """The second domain, which has no training labels: each method as trained, and with AdaBN on that domain."""
    metric = comparison.metric
    table = _table(f"domain without training labels: {TITLES[metric]}, mean over silos", "method")
    table.add_column("as trained", justify="right")
    table.add_column("with AdaBN", justify="right")
    for method, silos in comparison.target.items():
        columns = (
            [silo[variant] for silo in silos.values() if variant in silo]
            for variant in ("target", "target_adabn")
        )
        table.add_row(Text(method), *(_mean(metric, column, len(silos)) for column in columns))
    return table


def late_compare_table(comparison: Comparison) -> Table:
    """Silos that took no part in training, by method."""
    metric = comparison.metric
    table = _table("silos that joined after training", "silo", "method", "model", TITLES[metric])
    for method, silos in comparison.late.items():
        for silo, rows in silos.items():
            for row, figures in rows.items():
                table.add_row(Text(silo), Text(method), LATE_ROWS[row], format_average(metric, figures))
    return table


def _claimed(comparison: Comparison) -> list[str]:
    """The guarantee of the runs of a comparison, and why no method is called the best, if so."""
    if (privacy := comparison.privacy) is None:
        return []
    sentence = (
        f"differential privacy of each {privacy.unit}: epsilon = {privacy.epsilon:g} in each run of a method that shares "
        "tensors"
        if privacy.private
        else NOT_PRIVATE
    )
    sentence += f"; tuning: {privacy.tuning}"
    if not comparison.chosen_on:
        sentence += "; no best method, because it would be chosen on private rows"
    return [f"{sentence}. {not_covered(privacy.unit)}"]


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=Text(title), title_style="italic")


def _benefit(metric: str, benefit: Benefit) -> tuple[Text, Text, Text]:
    return (
        Text(benefit.best),
        Text(format_short_difference(metric, benefit.over_local, benefit.ci95)),
        Text(benefit.verdict, style=COLOURS[benefit.verdict]),
    )
