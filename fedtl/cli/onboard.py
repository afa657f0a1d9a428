"""``fedtl onboard``: what a silo that took no part in training gets from a finished backbone with few labels."""

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl.cli.options import Json, Out, Quiet, Run
from fedtl.cli.run_folder import nothing_is_kept
from fedtl.cli.screen import out_console, print_json, print_report_path, progress_bar, warn
from fedtl.errors import ConfigError

if TYPE_CHECKING:
    from fedtl.results.onboard import OnboardResult


def onboard(
    run: Run,
    data: Annotated[
        str,
        typer.Option(
            metavar="EXP", help="experiment file (or digits) whose data table names the new silo's rows"
        ),
    ],
    silo: Annotated[
        str | None, typer.Option(help="the new silo; default: the only one that did not train")
    ] = None,
    shots: Annotated[
        str, typer.Option(help="labelled rows of each class, as numbers with commas between them")
    ] = "1,5,20",
    episodes: Annotated[
        int, typer.Option(min=1, help="how often the labelled rows are drawn, for each number of shots")
    ] = 100,
    alone: Annotated[
        int,
        typer.Option(
            min=0,
            help="number of episodes in which the silo also trains its own model and tunes the received one, which is slow",
        ),
    ] = 5,
    match: Annotated[
        bool,
        typer.Option("--match", help="also say which silos of a simulated run resemble it; reads their rows"),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="decides which rows are drawn")] = 0,
    out: Out = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """
    Give a silo that never trained a head on a finished backbone, from few labels, and print which head serves it best.

    RUN is the folder of a run, or of fedtl export; the method must share the body of the model.
    The file of --data needs the data table only: source, path and so on. Its image size, columns and task are those of the run unless it names them.
    The normalisation statistics are fitted to all training inputs of the silo, without labels; each head is then made from the labelled rows of one episode and judged on the test rows.
    The labelled rows alone choose between the heads, as they would in use.

    Example: fedtl onboard runs/first --data clinic.toml --shots 1,5,20 --episodes 100
    """
    from fedtl.experiment.backbone import read_backbone
    from fedtl.experiment.new_silo import new_silo_experiment, new_silo_name, read_new_silo
    from fedtl.experiment.onboard import Episodes, NewSilo
    from fedtl.experiment.onboard import onboard as onboard_silo
    from fedtl.experiment.onboard_folder import check_new, write_onboarded
    from fedtl.experiment.resemblance import check_comparable

    plan = Episodes(_numbers(shots), episodes, alone, seed)
    folder = out or Path("runs") / f"onboard-{datetime.now():%Y%m%d-%H%M%S}"
    check_new(folder)
    nothing_is_kept()
    backbone = read_backbone(run)
    if match:
        check_comparable(backbone)
    experiment = new_silo_experiment(backbone, data)
    name = new_silo_name(backbone, experiment, silo)
    new = NewSilo.of(backbone, name, read_new_silo(backbone, experiment, name))
    with progress_bar(f"{name}: episodes", quiet or as_json) as show:
        result = onboard_silo(new, plan, show, match)
    page = write_onboarded(folder, result, experiment)
    if as_json:
        print_json(result)
    elif not quiet:
        _print(result)
    print_report_path(page, quiet or as_json)


def _numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", text):
        raise ConfigError(
            f"--shots {text!r}: write whole numbers from 1 with commas between them, as in 1,5,20"
        )
    return tuple(sorted({int(number) for number in text.split(",")}))


def _print(result: "OnboardResult") -> None:
    from fedtl.report.onboard_figures import answer, warnings
    from fedtl.report.onboard_page import onboard_table

    out_console.print(onboard_table(result))
    out_console.print(answer(result), highlight=False, markup=False)
    for line in warnings(result):
        warn(line)
