"""``fedtl transferability``."""

from fedtl.cli.options import (
    Device,
    Json,
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
from fedtl.cli.screen import out_console, print_json, print_line, print_report_path, training_progress


def transferability(
    experiment: OptionalExp = None,
    seeds: Seeds = None,
    out: Out = None,
    set_: Set = None,
    resume: Resume = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """
    Measure which stages of the model transfer between silos, and recommend how many to share.

    EXP is a TOML file, or the name of an included experiment (digits).
    Each silo in turn is left out: the others train together, and the silo then trains with their first 1, 2, ... stages, frozen (AnB) and fine-tuned (AnB+), and with its own ones (BnB, BnB+), as Yosinski et al. (2014) did.
    The page shows the curves with intervals over silos, CKA, LogME and H-score of each stage, and the settings of the recommended cut. fedtl run takes cut.toml of the folder.
    With model.weights or model.pretrain_on, training from scratch and a frozen pretrained body are measured, too.

    Example: fedtl transferability digits --seeds 0,1,2 --out runs/cut
    """
    from fedtl.experiment.pages import write_transfer_page
    from fedtl.experiment.transfer.transferability import transferability as measure
    from fedtl.report.tables import grid_table
    from fedtl.report.transfer_page import answer, points_grid
    from fedtl.simulation.choose import default_workers

    device = device_for(device)
    overrides = [*(set_ or []), *seeds_override(seeds)]
    settings, folder = begin("transferability", experiment, overrides, out, resume, workers)
    with training_progress(
        "transferability", 0, folder, quiet or as_json, counted="rounds and trainings"
    ) as show:
        result = measure(
            settings, folder, settings.engine.workers or default_workers(device), device, show.rounds
        )
    page = write_transfer_page(folder)
    if as_json:
        print_json(result)
    elif not quiet:
        out_console.print(grid_table(points_grid("All silos", result, result.points)))
        print_line(answer(result))
        print_line(f"\n{result.cut.fragment}")
    print_report_path(page, quiet or as_json)
