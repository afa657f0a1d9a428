"""Tables for the terminal, from what result.json and comparison.json hold. Names are text, never markup."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl.report.audit_result import AuditResult
from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    absences_of_run,
    absences_of_runs,
    one,
    over_silos,
    short_difference,
    shown,
    silos_of,
    with_interval,
)
from fedtl.report.wording import not_covered

COLOURS = {"gains": "green", "loses": "red", "unclear": "yellow"}
SHORT = 28  # characters of a silo's name that are never folded


def run_table(result: Mapping[str, Any]) -> Table:
    """A row a silo, then the mean and the worst."""
    silos, metrics = result["silos"], shown(result["silos"])
    table = _table(
        f"{result['method']} on {result['model']}, {result['rounds']} rounds: test rows of each silo"
    )
    table.add_column("silo", overflow="fold")
    for heading in ("train", "test", *(TITLES[metric] for metric in metrics)):
        table.add_column(heading, justify="right")
    for name, its in silos.items():
        row = (one(metric, its.get(metric)) for metric in metrics)
        table.add_row(Text(name), str(its["train"]), str(its["test"]), *row)
    table.add_section()
    means, counts = result["mean"], result["mean_silos"]
    mean = (one(metric, means.get(metric)) + over_silos(counts.get(metric), len(silos)) for metric in metrics)
    table.add_row("mean", "", "", *mean, style="bold")
    if worst := result.get("worst"):
        of = over_silos(worst["silos"], len(silos))
        cells = (one(metric, worst[metric]) + of if metric in worst else "" for metric in metrics)
        table.add_row(Text(f"worst: {worst['silo']}"), "", "", *cells)
    _caption(table, absences_of_run(result))
    return table


def _caption(table: Table, lines: list[str]) -> None:
    """Lines below a table; names in them are text."""
    if lines:
        table.caption, table.caption_justify = Text("\n".join(lines)), "left"


def late_table(late: Mapping[str, Any], metric: str) -> Table:
    """A row for each way in which a silo that did not train can use what it received."""
    table = _table("silos that joined late", "silo", "model", TITLES[metric])
    for name, rows in late.items():
        for row, its in rows.items():
            table.add_row(Text(name), LATE_ROWS[row], one(metric, its.get(metric)))
    return table


def privacy_table(privacy: Mapping[str, Any]) -> Table:
    """A row a silo: what it promises, or has spent, and with how much noise."""
    silos = privacy["silos"]
    what = f"of each {privacy['unit']}" if privacy["private"] else "NOT PRIVATE, its noise can be drawn again"
    title = f"differential privacy: {what}; tuning: {privacy['tuning']}"
    caption = f"epsilon: {privacy['adjacency']}; beside it for replace-one. {not_covered(privacy['unit'])}"
    table = Table(
        title=title, caption=caption, box=SIMPLE_HEAD, padding=0, show_edge=False,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    table.add_column("silo", overflow="fold", no_wrap=all(len(name) <= SHORT for name in silos))
    for heading in (
        f"{privacy['unit']}s",
        "epsilon",
        "delta",
        "replace-one",
        "noise",
        "rate",
        "steps",
        "norms",
    ):
        table.add_column(heading, justify="right")
    for name, its in silos.items():
        deviation = its["statistics_expected_noise"]
        table.add_row(
            Text(name),
            str(its["units"]),
            f"{its['epsilon']:.3f}",
            f"{its['delta']:.0e}",
            f"{its['epsilon_replace_one']:.3f}",
            f"{its['noise_multiplier']:.3f}",
            f"{its['sample_rate']:.3f}",
            str(its["steps_a_round"] * its["rounds"]),
            "" if deviation is None else f"± {deviation:.2f}",
        )
    return table


def claims_table(audit: AuditResult) -> Table | None:
    """A row a silo: what it claims. None where no silo claims anything."""
    if not (claims := audit.claims):
        return None
    table = _by_silo(claims, ("n", "sigma", "q", "rounds", "steps", "epsilon", "delta", "GDP mu"))
    for name, claim in claims.items():
        table.add_row(
            *(Text(name), str(claim.units), _cell(claim.noise_multiplier), _cell(claim.sample_rate)),
            *(str(claim.rounds), str(claim.steps)),
            *(_cell(claim.epsilon), f"{claim.delta:.0e}", _cell(claim.mu)),
        )
    return table


def measured_table(audit: AuditResult) -> Table:
    """A row a silo: what was measured; a dash where nothing was. Bounds on epsilon hold with 95 %."""
    headings = ("noise", "clips", "Steinke", "f-DP", "Gaussian", "RMIA AUC", "LiRA AUC", "checks")
    table = _by_silo(audit.silos, headings)
    for name, silo in audit.silos.items():
        conformance, bounds = silo.conformance, silo.bounds
        cells: list[float | None] = [None] * 7
        if conformance:
            cells[:2] = conformance.noise_std_ratio, conformance.sensitivity_over_clip
        if bounds:
            cells[2:5] = bounds.steinke, bounds.fdp, bounds.gaussian
        for at, attack in enumerate(("rmia", "lira"), 5):
            figures = audit.membership[attack].silos.get(name) if attack in audit.membership else None
            cells[at] = figures.auc if figures else None
        passed = "-" if conformance is None else "passed" if conformance.passed else "failed"
        table.add_row(Text(name), *map(_cell, cells), passed)
    return table


def _by_silo(silos: Mapping[str, Any], headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("silo", overflow="fold", no_wrap=all(len(name) <= SHORT for name in silos))
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def compare_table(comparison: Mapping[str, Any]) -> Table:
    """
    A row a silo, a column a method, and whether joining helped.

    Where the terminal is too narrow an interval goes below its mean: a number is never cut short.
    """
    metric, methods = comparison["metric"], comparison["methods"]
    benefit, seeds = comparison.get("benefit", {}), len(comparison["seeds"])
    title = f"test {TITLES[metric]}, mean of {seeds} seed{'s' * (seeds > 1)} and its 95 % interval (low…high)"
    table = Table(
        title=title, box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left",
    )  # fmt: skip
    _caption(table, [*_claimed(comparison), *absences_of_runs(comparison)])
    table.add_column(
        "silo", overflow="fold", no_wrap=all(len(name) <= SHORT for name in silos_of(comparison))
    )
    for method in methods:
        table.add_column(Text(method), justify="right", overflow="fold")
    if benefit:
        table.add_column("best", overflow="fold")
        table.add_column("over local", overflow="fold")
        table.add_column("joining", no_wrap=True)
    silos = silos_of(comparison)
    for silo in silos:
        its = benefit.get(silo, {})
        cells = [
            Text(
                with_interval(metric, figures.get(silo, {}).get(metric)),
                style="bold" if its.get("best") == method else "",
            )
            for method, figures in methods.items()
        ]
        table.add_row(Text(silo), *cells, *(_benefit(metric, its) if its else ()))
    table.add_section()
    means = [comparison["mean"][method].get(metric) for method in methods]
    worst = [comparison["worst"][method] for method in methods]
    table.add_row(
        "mean", *(with_interval(metric, its) + _over(its, len(silos)) for its in means), style="bold"
    )
    table.add_row("worst", *(one(metric, its.get(metric)) + _over(its, len(silos)) for its in worst))
    return table


def _over(its: Mapping[str, Any] | None, silos: int) -> str:
    return over_silos(its["silos"], silos) if its else ""


def refitted_table(comparison: Mapping[str, Any]) -> Table:
    """Methods that share the norms' statistics: as they are, and with each silo's exact statistics instead."""
    metric, silos = comparison["metric"], len(silos_of(comparison))
    table = _table(f"shared statistics of the norms: {TITLES[metric]}, mean over silos", "method")
    table.add_column("as shared", justify="right")
    table.add_column("refitted to each silo", justify="right")
    for method, per_silo in comparison["refitted"].items():
        shared = comparison["mean"][method].get(metric)
        cells = one(metric, shared and shared["mean"]) + _over(shared, silos)
        table.add_row(Text(method), cells, _mean(metric, per_silo.values(), silos))
    return table


def _mean(metric: str, rows: Iterable[Mapping[str, Any]], silos: int) -> str:
    """The mean over the silos that have the figure, and how many these are."""
    values = [its[metric]["mean"] for its in rows if metric in its]
    return one(metric, sum(values) / len(values)) + over_silos(len(values), silos) if values else "-"


def target_table(comparison: Mapping[str, Any]) -> Table:
    """The unlabelled domain: each method as it is, and with AdaBN on that domain's inputs."""
    metric = comparison["metric"]
    table = _table(f"the unlabelled domain: {TITLES[metric]}, mean over silos", "method")
    table.add_column("as trained", justify="right")
    table.add_column("with AdaBN", justify="right")
    for method, silos in comparison["target"].items():
        rows = ([its.get(row, {}) for its in silos.values()] for row in ("target", "target_adabn"))
        table.add_row(Text(method), *(_mean(metric, its, len(silos)) for its in rows))
    return table


def late_compare_table(comparison: Mapping[str, Any]) -> Table:
    """Silos that joined late, by method."""
    metric = comparison["metric"]
    table = _table("silos that joined late", "silo", "method", "model", TITLES[metric])
    for method, silos in comparison["late"].items():
        for silo, rows in silos.items():
            for row, its in rows.items():
                value = one(metric, its.get(metric, {}).get("mean"))
                table.add_row(Text(silo), Text(method), LATE_ROWS[row], value)
    return table


def _claimed(comparison: Mapping[str, Any]) -> list[str]:
    """What is claimed of a comparison's runs; why none is called the best, where that is so."""
    if (its := comparison.get("privacy")) is None:
        return []
    claim = f"differential privacy of each {its['unit']}: epsilon = {its['epsilon']:g} in each run of a method that shares"
    said = (
        f"{claim if its['private'] else 'NOT PRIVATE, its noise can be drawn again'}; tuning: {its['tuning']}"
    )
    if not comparison["chosen_on"]:
        said += "; no best, for the rows to choose on are private"
    return [f"{said}. {not_covered(its['unit'])}"]


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=Text(title), title_style="italic")


def _benefit(metric: str, its: Mapping[str, Any]) -> tuple[Text, Text, Text]:
    verdict = its["verdict"]
    return Text(its["best"]), Text(short_difference(metric, its)), Text(verdict, style=COLOURS[verdict])
