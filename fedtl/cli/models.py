"""What to do with a run that is done: ``fedtl predict``, ``export`` and ``report``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.run_folder import compare_page, run_page
from fedtl.cli.screen import Json, Run, SiloName, close, err_console, out_console, print_json


def predict(
    run: Run,
    silo: SiloName,
    input: Annotated[Path, typer.Option(help=".npz, .npy, .csv, .parquet, an image, or a folder of images")],
    out: Annotated[Path | None, typer.Option(help="a CSV file; default: stdout")] = None,
    as_json: Json = False,
) -> None:
    """Predictions of a silo's own model for new inputs."""
    from fedtl.experiment.predict import SiloModel, read_inputs, rows, write_csv
    from fedtl.experiment.run_folder import RunFolder

    model = SiloModel(RunFolder.open(run), silo)
    x, files = read_inputs(input, model.experiment, model.inputs)
    lines = rows(model, model.scores(x), files)
    if as_json:
        print_json(list(lines))
    elif out is None:
        write_csv(lines, sys.stdout)
    else:
        with out.open("w", newline="") as file:
            written = write_csv(lines, file)
        err_console.print(f"{written} predictions in {out}", highlight=False)


def export(run: Run, silo: SiloName, out: Annotated[Path, typer.Option(help="a new folder")]) -> None:
    """A silo's own model as one ordinary PyTorch model: safetensors, its labels, and ONNX where it exports."""
    from fedtl.experiment.predict import SiloModel
    from fedtl.experiment.predict import export as export_model
    from fedtl.experiment.run_folder import RunFolder

    for line in export_model(SiloModel(RunFolder.open(run), silo), out):
        out_console.print(line, highlight=False, markup=False)


def report(run: Run) -> None:
    """Rebuild report.html, plots and all, from a run or comparison folder."""
    from fedtl.experiment.run_folder import RunFolder

    folder = RunFolder.open(run)
    page = compare_page(folder) if folder.has("comparison.json") else run_page(folder)
    close(page, quiet=False)
