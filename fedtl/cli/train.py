"""``fedtl run`` and ``fedtl compare``."""

import json
import re
from typing import Annotated

import typer

from fedtl.cli.run_folder import begin, compare_page, run_page
from fedtl.cli.screen import (
    Device,
    Json,
    MaybeExp,
    Out,
    Quiet,
    Resume,
    Set,
    Workers,
    close,
    device_for,
    err_console,
    out_console,
    print_json,
    print_left_out,
    progress,
)
from fedtl.errors import ConfigError


def run(
    experiment: MaybeExp = None,
    out: Out = None,
    set_: Set = None,
    resume: Resume = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train one method over the silos of an experiment and say how each silo fares."""
    from fedtl.experiment.run import run as run_study
    from fedtl.report.tables import late_table, privacy_table, run_table

    on = device_for(device)
    settings, folder = begin(experiment, set_, out, resume, workers, "run")
    with progress(quiet or as_json, f"{settings.method.name}: round", settings.rounds, folder) as show:
        result = run_study(settings, folder, on, lambda one: show(one.after.round))
    page = run_page(folder)
    if as_json:
        print_json(result)
    elif not quiet:
        out_console.print(run_table(result))
        if result.late:
            out_console.print(late_table(result))
        if result.privacy:
            out_console.print(privacy_table(result.privacy))
        print_left_out(result)
    close(page, quiet or as_json)


def compare(
    experiment: MaybeExp = None,
    methods: Annotated[str | None, typer.Option(help="comma-separated: local,fedavg,fedbn,...")] = None,
    seeds: Annotated[str | None, typer.Option(help="comma-separated: 0,1,2")] = None,
    out: Out = None,
    set_: Set = None,
    resume: Resume = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train several methods on the same silos and seeds, and say for every silo whether joining helped."""
    from fedtl.experiment.compare import compare as compare_study
    from fedtl.experiment.compare import variants
    from fedtl.report.tables import compare_table, late_compare_table, refitted_table, target_table
    from fedtl.simulation.choose import places

    overrides = list(set_ or [])
    if methods is not None:
        overrides.append(f"compare.methods={json.dumps(methods.split(','))}")
    if seeds is not None:
        if not re.fullmatch(r"\d+(,\d+)*", seeds):
            raise ConfigError(
                f"--seeds {seeds!r}: give whole numbers with commas between them, such as 0,1,2"
            )
        overrides.append(f"compare.seeds=[{seeds}]")
    on = device_for(device)
    settings, folder = begin(experiment, overrides, out, resume, workers, "compare")
    columns = variants(settings)
    rounds = len(columns) * len(settings.compare.seeds) * settings.rounds
    title = f"{len(columns)} columns, {len(settings.compare.seeds)} seeds: round"
    with progress(quiet or as_json, title, rounds, folder) as show:
        comparison = compare_study(settings, folder, settings.engine.workers or places(on), on, show)
    page = compare_page(folder)
    if as_json:
        print_json(comparison)
    elif not quiet:
        out_console.print(compare_table(comparison))
        for content, table in (
            (comparison.refitted, refitted_table),
            (comparison.target, target_table),
            (comparison.late, late_compare_table),
        ):
            if content:
                out_console.print(table(comparison))
        for warning in comparison.warnings:
            err_console.print(
                f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True
            )
    close(page, quiet or as_json)
