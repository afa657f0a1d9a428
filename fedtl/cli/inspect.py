"""What is known without training: ``fedtl show`` and ``lint``, and what the rows hold (``fedtl data``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from fedtl.cli.options import Exp, Json, OptionalExp, Set
from fedtl.cli.screen import (
    out_console,
    print_entries,
    print_json,
    print_line,
    print_report_path,
    progress_bar,
    say,
    warn,
)

if TYPE_CHECKING:
    from fedtl.results.data_report import DataReport
    from fedtl.results.plan import ExperimentPlan, TensorRow


def show(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    r"""
    Print what an experiment would do, without training: its settings, tensors, privacy guarantee and refusals.

    Every key is listed with what it does. A key that is not set is a comment.
    EXP is a TOML file, or the name of an included experiment (digits).
    For each tensor: its role, its size and whether it leaves a silo.
    With \[privacy], for each silo: noise, steps and epsilon.
    Exit code 2: fedtl run would refuse it.

    Example: fedtl show digits --set privacy.epsilon=3
    """
    from fedtl.experiment.config.annotate import annotated_toml
    from fedtl.experiment.config.load import parse_settings, read_experiment
    from fedtl.experiment.lint.dry_run import examine
    from fedtl.experiment.plan import experiment_plan
    from fedtl.experiment.privacy_report import privacy_warnings
    from fedtl.simulation.shared_store import temporary_store

    settings = parse_settings(read_experiment(experiment, set_ or []))
    with temporary_store() as store:
        examined = examine(settings, store)
    plan = experiment_plan(settings, examined)
    if as_json:
        print_json(plan)
    else:
        title = f"{settings.method.name} on {settings.model.name}"
        _print_plan(plan, annotated_toml(settings), title, privacy_warnings(examined.guarantees.values()))
    if examined.refused:
        raise typer.Exit(2)


PROVENANCE = (
    "provenance: public: from a seed or declared as public; private-mechanism: trained by noisy steps alone; released: sent to the "
    "server, or statistics with noise; local-only: trained without noise, and never leaves"
)


def _print_plan(plan: "ExperimentPlan", toml: str, title: str, warnings: Sequence[str]) -> None:
    from fedtl.report.tables import privacy_table
    from fedtl.results.plan import Heads

    print_line(toml)
    _print_tensors(plan, title)
    print_line(
        f"In each round, each of the {len(plan.training)} training silos sends {plan.bytes_up:,} bytes and receives "
        + ("as many." if plan.bytes_up == plan.bytes_down else f"{plan.bytes_down:,}.")
    )
    if plan.heads is not Heads.TRAINED:
        start = "at a simplex" if plan.heads is Heads.SIMPLEX else "at their initial weights"
        print_line(f"The rounds do not train heads, which stay {start}.")
    for part in plan.parts:
        where = "leaves in each round" if part.leaves else "stays"
        print_line(
            f"{part.name}: {part.tensors} tensors in addition to the model, {part.bytes:,} bytes, {where}"
        )
    for text in plan.notes:
        print_line(f"Note: {text}", "yellow")
    for text in plan.refused:
        say(f"refused: {text}")
    if plan.privacy is None:
        print_line(
            "No differential privacy: the shared tensors can reveal information about a silo's rows.",
            "yellow",
        )
        return
    if plan.privacy.silos:
        out_console.print(privacy_table(plan.privacy))
    for text in warnings:
        warn(text)


def _print_tensors(plan: "ExperimentPlan", title: str) -> None:
    from fedtl.experiment.tensor_table import model_rows

    private = [Column("provenance", overflow="fold")] if plan.privacy else []
    table = Table(Column("tensor", overflow="fold"), "role", "shape", "bytes", "", *private, title=title)
    for tensor in model_rows(plan.tensors):
        table.add_row(
            tensor.name,
            tensor.role,
            " x ".join(map(str, tensor.shape)) or "scalar",
            f"{tensor.bytes:,}",
            _fate(tensor),
            *([tensor.label] if tensor.label else []),
        )
    out_console.print(table)
    if plan.privacy:
        print_line(PROVENANCE)


def _fate(tensor: "TensorRow") -> str:
    if not tensor.leaves:
        return "[green]stays[/]"
    return "[red]leaves[/]" if tensor.sent == tensor.bytes else f"[red]leaves[/] in {tensor.sent:,}"


def lint(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    """
    Check the privacy settings of an experiment and list everything that was found, without training.

    EXP is a TOML file, or the name of an included experiment (digits).
    "unsound": would make the privacy guarantee untrue (exit code 2).
    "ask": a person has to decide.
    "holds": was checked, with the numbers of each silo.

    Example: fedtl lint hospitals.toml --set privacy.epsilon=3
    """
    from dataclasses import asdict

    from fedtl.experiment.config.load import read_experiment
    from fedtl.experiment.lint.findings import lint as lint_experiment

    findings = lint_experiment(read_experiment(experiment, set_ or []))
    if as_json:
        print_json(asdict(findings))
    else:
        for kind, texts, style in (
            ("unsound", findings.unsound, "red"),
            ("ask", findings.doubtful, ""),
            ("holds", findings.holds, "green"),
        ):
            for text in texts:
                print_line(f"{kind}: {text}", style)
    if findings.unsound:
        raise typer.Exit(2)


def _print_data(experiment: str, changes: Sequence[str], out: Path | None, as_json: bool) -> None:
    from fedtl.experiment.config.load import parse_settings, read_experiment, to_toml
    from fedtl.experiment.data_folder import write_data
    from fedtl.experiment.data_report import data_report
    from fedtl.experiment.onboard_folder import check_new
    from fedtl.simulation.shared_store import temporary_store

    settings = parse_settings(read_experiment(experiment, list(changes)))
    if out is not None:
        check_new(out)
    with temporary_store() as store, progress_bar("data", as_json) as show:
        report = data_report(settings, store, show)
    page = write_data(out, report, to_toml(settings), "The experiment with all settings") if out else None
    print_data(report, as_json)
    if page:
        print_report_path(page, as_json)


def print_data(report: "DataReport", as_json: bool) -> None:
    """Print what rows hold to stdout."""
    from fedtl.report.data_tables import between_table, data_table, silo_lines

    if as_json:
        print_json(report)
        return
    out_console.print(data_table(report))
    for line in silo_lines(report):
        print_line(line)
    if report.between.inputs or report.between.labels:
        out_console.print(between_table(report))
    for one in report.recommendations:
        print_line(f"Recommendation: {one.text} (rule: {one.rule})")
    for note in report.notes:
        print_line(f"Note: {note}", "yellow")


def data(
    experiment: OptionalExp = None,
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(help="new or empty folder for the page (report.html) and data.json")
    ] = None,
    as_json: Json = False,
) -> None:
    r"""
    Print what is read of an experiment's data, what is not, and how silos differ; without EXP, list the data sources.

    EXP is a TOML file, or the name of an included experiment (digits).
    For each silo: its rows, how inputs are read, its labels, files and columns that are not read, missing cells, copies of rows and columns, and columns that a result should not depend on.
    Between silos: copies, labels, and how well a classifier tells their inputs apart; then recommendations, each with its rule.
    No model of the experiment is trained. The output tells what the rows hold, with \[privacy] too: it is for those who may see them.

    Example: fedtl data hospitals.toml --out hospitals-data
    """
    from fedtl.data.registry import DATA

    if experiment is not None:
        _print_data(experiment, set_ or [], out, as_json)
        return
    rows = [{"name": name, "about": source.about} for name, source in DATA.items()]
    if as_json:
        print_json(rows)
    else:
        print_entries("data sources", rows)
