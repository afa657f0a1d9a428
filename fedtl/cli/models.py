"""``fedtl predict``, ``export`` and ``report``: use the result of a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Json, Run, SiloName
from fedtl.cli.screen import print_json, print_line, print_report_path, say


def predict(
    run: Run,
    silo: SiloName,
    input: Annotated[Path, typer.Option(help=".npz, .npy, .csv, .parquet, an image, or a folder of images")],
    out: Annotated[Path | None, typer.Option(help="CSV file for the predictions; default: stdout")] = None,
    as_json: Json = False,
) -> None:
    """
    Predict new inputs with the model of one silo.

    RUN is the folder of a run or of fedtl silo adopt.
    The inputs are prepared as the silo's training inputs were.

    Example: fedtl predict runs/first --silo clinic --input new.csv --out predictions.csv
    """
    from fedtl.data.input_files import read_inputs
    from fedtl.experiment.predict import SiloModel, prediction_rows, write_csv
    from fedtl.experiment.run_folder import RunFolder

    model = SiloModel(RunFolder.open(run), silo)
    x, files = read_inputs(input, model.experiment.data, model.inputs)
    lines = prediction_rows(model, model.scores(x), files)
    if as_json:
        print_json(list(lines))
    elif out is None:
        write_csv(lines, sys.stdout)
    else:
        with out.open("w", newline="") as file:
            count = write_csv(lines, file)
        say(f"wrote {count} predictions to {out}")


def export(
    run: Run, silo: SiloName, out: Annotated[Path, typer.Option(help="new folder for the model")]
) -> None:
    """
    Export the model of one silo as an ordinary PyTorch model.

    RUN is the folder of a run.
    The new folder holds the weights (safetensors), the names of the labels, how inputs are prepared, and an ONNX file if the model can be exported to ONNX.

    Example: fedtl export runs/first --silo clinic --out clinic-model
    """
    from fedtl.experiment.predict import SiloModel
    from fedtl.experiment.predict import export_model as export_model
    from fedtl.experiment.run_folder import RunFolder

    for line in export_model(SiloModel(RunFolder.open(run), silo), out):
        print_line(line)


def report(run: Run) -> None:
    """
    Write report.html again, from the other files in the folder of a run, a comparison or a transferability.

    Example: fedtl report runs/first
    """
    from fedtl.experiment.pages import write_page
    from fedtl.experiment.run_folder import RunFolder

    print_report_path(write_page(RunFolder.open(run)), quiet=False)
