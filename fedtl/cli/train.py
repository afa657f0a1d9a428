"""``fedtl run`` and ``fedtl compare``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl.cli.options import (
    Device,
    Json,
    LeaveOneOut,
    MoreRounds,
    OptionalExp,
    Out,
    Quiet,
    Resume,
    Seeds,
    Set,
    Workers,
    device_for,
    seeds_override,
)
from fedtl.cli.run_folder import begin
from fedtl.cli.screen import out_console, print_json, print_report_path, say, training_progress, warn
from fedtl.errors import ConfigError

if TYPE_CHECKING:
    from fedtl.results.comparison import Comparison
    from fedtl.results.run import RunResult


def run(
    experiment: OptionalExp = None,
    out: Out = None,
    set_: Set = None,
    resume: Resume = None,
    more_rounds: MoreRounds = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """
    Train one method on the silos of an experiment and print the test result of each silo.

    EXP is a TOML file, or the name of an included experiment (digits).
    The setting method.name selects the method; fedtl methods lists them.
    The results go to a new folder, RUN, which fedtl predict, export, report and audit take.

    Example: fedtl run digits --set method.name=fedbn --out runs/fedbn
    """
    from fedtl.experiment.run import run as run_experiment

    device = device_for(device)
    if more_rounds is not None:
        _add_rounds(resume, more_rounds)
    settings, folder = begin("run", experiment, set_, out, resume, workers)
    with training_progress(settings.method.name, settings.rounds, folder, quiet or as_json, pause=0) as show:
        result = run_experiment(
            settings, folder, device, lambda end: show.rounds(end.after.round), finishing=show.finishing
        )
    from fedtl.experiment.pages import (
        write_run_page,
    )  # plots take half a second to import, and training starts without them

    page = write_run_page(folder)
    if as_json:
        print_json(result)
    elif not quiet:
        _print_run(result)
    print_report_path(page, quiet or as_json)


def _add_rounds(resume: Path | None, rounds: int) -> None:
    from fedtl.experiment.more_rounds import add_rounds
    from fedtl.experiment.run_folder import RunFolder

    if resume is None:
        raise ConfigError(f"--more-rounds {rounds}: name the run to continue with --resume DIR")
    say(f"{resume}: {add_rounds(RunFolder.open(resume), rounds)} rounds in all")


def _print_run(result: "RunResult") -> None:
    from fedtl.report.tables import late_table, privacy_table, run_table

    out_console.print(run_table(result))
    if result.late:
        out_console.print(late_table(result))
    if result.privacy:
        out_console.print(privacy_table(result.privacy))
    for name, reasons in result.left_out.items():
        warn(f"{name} was left out {len(reasons)} times, most recently in {reasons[-1]}")
    for note in result.notes:
        say(f"note: {note}")


def compare(
    experiment: OptionalExp = None,
    methods: Annotated[
        str | None, typer.Option(help="methods with commas between them: local,fedavg,fedbn")
    ] = None,
    seeds: Seeds = None,
    leave_one_out: LeaveOneOut = False,
    out: Out = None,
    set_: Set = None,
    resume: Resume = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """
    Train several methods on the same silos and print for each silo whether joining helped.

    EXP is a TOML file, or the name of an included experiment (digits).
    Every method is trained once per seed.
    The best federated method of a silo is compared with "local", which is training alone.
    --leave-one-out takes a further run for each silo and seed. With --resume DIR it adds them to a finished comparison.

    Example: fedtl compare digits --methods local,fedavg,fedbn --seeds 0,1,2
    """
    from fedtl.experiment.columns import Kind, comparison_columns
    from fedtl.experiment.compare import compare as compare_methods
    from fedtl.experiment.leave_one_out import leaving_out
    from fedtl.simulation.choose import default_workers

    overrides = list(set_ or [])
    if methods is not None:
        overrides.append(f"compare.methods={json.dumps(methods.split(','))}")
    overrides += seeds_override(seeds)
    device = device_for(device)
    if leave_one_out and resume is None:
        overrides.append("compare.leave_one_out=true")
    settings, folder = begin("compare", experiment, overrides, out, resume, workers)
    if leave_one_out and not settings.compare.leave_one_out:
        settings = leaving_out(folder)
    columns, seed_count = comparison_columns(settings), len(settings.compare.seeds)
    count = sum(column.kind is not Kind.CONSTANT for column in columns)  # its answers need no training
    trials = max(len(column.trials) for column in columns)
    title = f"{count} method{'s' * (count > 1)}, {seed_count} seed{'s' * (seed_count > 1)}"
    title += f", {settings.compare.folds} folds" if settings.compare.folds > 1 else ""
    title += f", {trials} trials" if trials else ""
    counted = "rounds and finished models"
    with training_progress(title, settings.rounds, folder, quiet or as_json, counted=counted) as show:
        comparison = compare_methods(
            settings, folder, settings.engine.workers or default_workers(device), device, show.rounds
        )
    from fedtl.experiment.pages import write_compare_page  # as above

    page = write_compare_page(folder)
    if as_json:
        print_json(comparison)
    elif not quiet:
        _print_comparison(comparison)
    print_report_path(page, quiet or as_json)


def _print_comparison(comparison: "Comparison") -> None:
    from fedtl.report.compare_tables import (
        compare_table,
        late_compare_table,
        overall_table,
        refitted_table,
        target_table,
    )
    from fedtl.report.helper_tables import helper_table
    from fedtl.report.label_free_tables import label_free_table
    from fedtl.report.wire_tables import wire_table

    out_console.print(compare_table(comparison))
    for content, table in (
        (comparison.overall, overall_table),
        (comparison.refitted, refitted_table),
        (comparison.target, target_table),
        (comparison.late, late_compare_table),
        (comparison.label_free, label_free_table),
        (comparison.wire, wire_table),
        (comparison.who_helps, helper_table),
    ):
        if content:
            out_console.print(table(comparison))
    for text in comparison.warnings:
        warn(text)
