"""Tables of a comparison for the terminal, from comparison.json. Names are text, never markup."""

from collections.abc import Iterable, Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl._util.counted import counted
from fedtl.report.answer import detectable_gains, limits_note, margin_text, verdict_counts
from fedtl.report.figures import (
    CONSTANT,
    LATE_ROWS,
    TITLES,
    all_silos,
    format_average,
    format_difference,
    format_short_difference,
    format_value,
    format_with_interval,
    missing_in_comparison,
    silo_count_note,
)
from fedtl.report.tables import MAX_UNFOLDED, NOT_PRIVATE, put_caption, titled_table
from fedtl.report.trials import trial_lines, yardstick_lines
from fedtl.report.wording import not_covered
from fedtl.results.comparison import Averages, Benefit, Comparison, Estimate, Overall, Verdict

MAX_WHOLE_HEADINGS = 5  # the most methods that fit into 80 characters with whole headings
COLOURS = {
    Verdict.GAINS: "green",
    Verdict.AS_GOOD: "cyan",
    Verdict.LOSES: "red",
    Verdict.UNCLEAR: "yellow",
}


def compare_table(comparison: Comparison) -> Table:
    """
    A comparison: one row per silo, one column per method, and whether joining helped.

    If the terminal is too narrow, an interval goes below its mean; no number is cut off.
    """
    metric, methods = comparison.metric, _columns(comparison)
    benefit, seeds = comparison.benefit, len(comparison.seeds)
    title = f"test {TITLES[metric]}, mean of {counted(seeds, 'seed')} and its 95 % interval (low…high)"
    if comparison.folds > 1:
        title += f"; each row tested once a seed, in {comparison.folds} folds"
    table = Table(
        title=title, box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left",
    )  # fmt: skip
    explained = [
        *_claimed(comparison),
        *trial_lines(comparison),
        *yardstick_lines(comparison),
        *_floor(comparison),
    ]
    put_caption(table, [*_verdict_lines(comparison), *explained, *missing_in_comparison(comparison)])
    table.add_column(
        "silo", overflow="fold", no_wrap=all(len(name) <= MAX_UNFOLDED for name in all_silos(comparison))
    )
    for method in methods:
        heading = method if len(methods) <= MAX_WHOLE_HEADINGS else _hyphenated(method)
        table.add_column(Text(heading), justify="right", overflow="fold")
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
    methods = _columns(comparison)
    means = (comparison.mean[method].get(metric) for method in methods)
    worst = (comparison.worst[method] for method in methods)
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
        table.add_row("epochs", *(str(comparison.epochs.get(method, "-")) for method in methods))


def _columns(comparison: Comparison) -> dict[str, Mapping[str, Mapping[str, Estimate]]]:
    """The methods of the table; constant answers have a line below it, because they are far from the others."""
    return {label: figures for label, figures in comparison.methods.items() if label != CONSTANT}


def _hyphenated(name: str) -> str:
    """Break long words of a heading, so that its column is no wider than its numbers."""
    words = (f"{word[:6]}-\n{word[6:]}" if len(word) > 7 else word for word in name.split())
    return "\n".join(words)


def _floor(comparison: Comparison) -> list[str]:
    """What constant answers score."""
    if CONSTANT not in comparison.methods:
        return []
    mean = format_with_interval(comparison.metric, comparison.mean[CONSTANT].get(comparison.metric))
    return [f"{CONSTANT}: its mean over silos is {mean}"]


def _over(mean: Estimate | None, silos: int) -> str:
    return silo_count_note(mean.silos, silos) if mean else ""


def overall_table(comparison: Comparison) -> Table:
    """Each method against training alone, over all silos; first what the silos choose."""
    metric = comparison.metric
    title = Text(f"each method minus local over all silos, {TITLES[metric]}")
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    for heading in ("method", "mean gain", "", "not worse", "silos", "worst silo"):
        table.add_column(heading, overflow="fold")
    rows = {"chosen by the silos": comparison.joining} if comparison.joining else {}
    for name, own in {**rows, **comparison.overall}.items():
        gain = own.mean
        table.add_row(
            Text(name),
            Text(format_difference(metric, gain.mean, gain.ci95)),
            Text(gain.verdict, style=COLOURS[gain.verdict]),
            f"{own.not_worse} of {own.silos}",
            verdict_counts(own),
            Text(_worst_gain(metric, own)),
        )
    return table


def _worst_gain(metric: str, own: Overall) -> str:
    return f"{own.worst} {format_short_difference(metric, own.worst_gain.mean, own.worst_gain.ci95)}"


def _verdict_lines(comparison: Comparison) -> list[str]:
    """What the column "joining" means, with the margin and the power of the test rows."""
    if not comparison.benefit:
        return []
    line = f"joining: corrected for {counted(len(comparison.benefit), 'silo')}; as good: within {margin_text(comparison)} of local"
    power = detectable_gains(comparison)
    return [f"{line}; {power}" if power else line, *limits_note(comparison)]


def refitted_table(comparison: Comparison) -> Table:
    """Models before they are fitted at home, scored with shared normalisation statistics and with each silo's own."""
    metric, silos = comparison.metric, len(all_silos(comparison))
    table = titled_table(
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
    return (
        format_value(metric, sum(values) / len(values)) + silo_count_note(len(values), silos)
        if values
        else "-"
    )


def target_table(comparison: Comparison) -> Table:
    """The second domain, which has no training labels: each method as trained, and with AdaBN on that domain."""
    metric = comparison.metric
    table = titled_table(f"domain without training labels: {TITLES[metric]}, mean over silos", "method")
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
    table = titled_table("silos that joined after training", "silo", "method", "model", TITLES[metric])
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


def _benefit(metric: str, benefit: Benefit) -> tuple[Text, Text, Text]:
    return (
        Text(benefit.best),
        Text(format_short_difference(metric, benefit.over_local, benefit.ci95)),
        Text(benefit.verdict, style=COLOURS[benefit.verdict]),
    )
