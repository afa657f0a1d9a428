"""``fedtl predict``, ``embed``, ``export``, ``grow`` and ``report``: use the result of a run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedtl.cli.options import Json, Run, SiloName
from fedtl.cli.screen import print_json, print_line, print_report_path, progress_bar, say

if TYPE_CHECKING:
    from fedtl.data.input_files import NewRows


def predict(
    run: Run,
    silo: SiloName,
    input: Annotated[
        Path, typer.Option(help=".npz, .npy, .csv, .parquet, .xlsx, an image, or a folder of images")
    ],
    out: Annotated[Path | None, typer.Option(help="CSV file for the predictions; default: stdout")] = None,
    adapt: Annotated[
        Literal["none", "tent"],
        typer.Option(help="tent: let scale and shift of normalisation layers follow these inputs"),
    ] = "none",
    masks: Annotated[
        Path | None, typer.Option(help="for a segmentation: a new folder for the predicted masks, as PNG")
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Predict new inputs with the model of one silo.

    RUN is the folder of a run or of fedtl silo adopt.
    The inputs are prepared as the silo's training inputs were.
    With --adapt tent the model adapts while it predicts, and a prediction depends on the other rows; the column "adapted" says so.

    Example: fedtl predict runs/first --silo clinic --input new.csv --out predictions.csv
    """
    from fedtl.data.input_files import read_inputs
    from fedtl.experiment.predict import SiloModel, prediction_rows, write_csv
    from fedtl.experiment.predicted_masks import write_masks
    from fedtl.experiment.run_folder import RunFolder

    model = SiloModel(RunFolder.open(run), silo)
    rows = read_inputs(input, model.experiment.data, model.inputs, model.shape)
    _say_unread(rows)
    scores = model.scores(rows.x, adapt == "tent")
    if masks is not None:
        say(f"wrote {write_masks(model, scores, rows.files, masks)} masks to {masks}")
    lines = prediction_rows(model, scores, rows.files, rows.column)
    if adapt == "tent":
        lines = (line | {"adapted": adapt} for line in lines)
        say(
            f"scale and shift were adapted to these {len(rows.x)} rows (TENT; Wang et al., 2021): a prediction depends on all of them"
        )
    if as_json:
        print_json(list(lines))
    elif out is None:
        write_csv(lines, sys.stdout)
    else:
        with out.open("w", newline="") as file:
            count = write_csv(lines, file)
        say(f"wrote {count} predictions to {out}")


def _say_unread(rows: "NewRows") -> None:
    if rows.unread:
        say(f"note: columns that the model does not know are not read: {', '.join(rows.unread)}")
    for line in rows.notes:
        say(f"note: {line}")


def embed(
    run: Run,
    input: Annotated[
        Path, typer.Option(help=".npz, .npy, .csv, .parquet, .xlsx, an image, or a folder of images")
    ],
    out: Annotated[Path, typer.Option(help=".npz or .parquet file for the features")],
    silo: Annotated[
        str,
        typer.Option(help="the silo whose model is used; leave it out for an export, which has one model"),
    ] = "",
    as_json: Json = False,
) -> None:
    """
    Write the features of new inputs by the model of one silo, for other programs: what its head would see.

    RUN is the folder of a run, of fedtl silo adopt, or of fedtl export.
    The inputs are prepared as the silo's training inputs were.
    The file has one row of numbers for each input, its row number or file name, the silo, and a hash of the body: features of another body cannot be compared with them.
    Each row of the file describes one row of the input, and a decoder can rebuild much of it: treat the file as you treat the input.

    Example: fedtl embed runs/first --silo clinic --input new.csv --out features.npz
    """
    from fedtl.data.input_files import read_inputs
    from fedtl.experiment.embed import check_output, write_embeddings
    from fedtl.experiment.embed import embed as features_of_rows
    from fedtl.experiment.exported_body import named_body

    check_output(out)
    model = named_body(run, silo)
    rows = read_inputs(input, model.settings, model.inputs, model.shape)
    _say_unread(rows)
    with progress_bar(f"{silo or run.name}: rows", as_json) as show:
        made = features_of_rows(model, rows.x, rows.files, show)
    write_embeddings(out, made)
    if model.mix:
        say(
            f"{silo or run.name} uses a mix of {', '.join(model.mix)}; these are the features of {made.member}"
        )
    if as_json:
        rows, numbers = made.vectors.shape
        print_json({"out": str(out), "rows": rows, "features": numbers, **made.about})
    else:
        say(f"wrote {len(made.ids)} rows of {made.vectors.shape[1]} features to {out}")


def export(
    run: Run,
    silo: SiloName,
    out: Annotated[Path, typer.Option(help="new folder for the model")],
    distil: Annotated[
        str, typer.Option(metavar="MODEL", help="distil the model into one net of this kind")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a setting of MODEL, such as width=32; can be repeated"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="of training MODEL; default: as many as in the run")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SILO",
            help="for a simulation: MODEL also learns from the outputs of this silo's model; can be repeated; all: of every silo",
        ),
    ] = None,
) -> None:
    """
    Export the model of one silo as an ordinary PyTorch model.

    RUN is the folder of a run.
    The new folder holds the weights (safetensors), the names of the labels, how inputs are prepared, a script that predicts without fedtl if its network can be rebuilt from torch, timm or torchvision alone, and an ONNX file if the model can be exported to ONNX.

    With --distil, one net of another kind is trained on the silo's own rows to give what its model, or its mix of models, gives. The test results of both are printed. With --teacher it learns the mean of several silos' models.

    Example: fedtl export runs/first --silo clinic --out clinic-model
    """
    from fedtl.errors import ConfigError
    from fedtl.experiment.config.load import overriding
    from fedtl.experiment.distil import distilled, lines, other_teachers, student_settings
    from fedtl.experiment.predict import SiloModel, check_new_folder
    from fedtl.experiment.predict import export_model as export_model
    from fedtl.experiment.run_folder import RunFolder

    check_new_folder(out)
    folder = RunFolder.open(run)
    model, about = SiloModel(folder, silo), None
    if distil:
        others = other_teachers(folder, silo, teacher) if teacher else ()
        made = distilled(model, student_settings(model, distil, overriding(set_ or [])), epochs, others)
        model, about = made.model, {"distilled": made.about()}
        for line in lines(made):
            print_line(line)
    elif set_ or epochs or teacher:
        raise ConfigError(
            "--set, --epochs and --teacher apply to the net that --distil trains; add --distil MODEL"
        )
    for line in export_model(model, out, about):
        print_line(line)


def grow(
    run: Run,
    out: Annotated[Path, typer.Option(help="new .safetensors file")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a setting of the model, such as width=128; can be repeated"
        ),
    ] = None,
) -> None:
    """
    Make the shared model of a run wider without changing what it computes, to continue with it.

    RUN is the folder of a run of an mlp or a convnet.
    The file is the start of a new run: set model.weights to it, and model.settings to the same values.
    What stayed at the silos is not in it.

    Example: fedtl grow runs/first --set "widths=[64,128,128]" --out wider.safetensors
    """
    from fedtl.experiment.config.load import overriding
    from fedtl.experiment.grow import grow as grow_run
    from fedtl.experiment.run_folder import RunFolder

    print_line(grow_run(RunFolder.open(run), overriding(set_ or []), out))


def report(
    run: Run,
    second: Annotated[Path | None, typer.Argument(metavar="SECOND")] = None,
    out: Annotated[
        Path | None, typer.Option(help="with SECOND: the new page; default: RUN-SECOND.html")
    ] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features", help="for a run: also plot the features of test rows; reads the rows again"
        ),
    ] = False,
) -> None:
    """
    Write report.html again, from the other files in the folder of a run, a comparison or a transferability.

    With SECOND, both are folders of comparisons, and a page of its own shows them side by side: gains, means, and the settings that differ.
    With --features, the page of a run also shows the features of test rows before and after training, by silo and by class, and how far each silo's normalisation statistics are from the mean.

    Example: fedtl report runs/first
    """
    from fedtl.errors import ConfigError
    from fedtl.experiment.pages import write_page, write_pair_page, write_run_page
    from fedtl.experiment.run_folder import RunFolder

    if second is not None:
        page = out or Path(f"{run.resolve().name}-{second.resolve().name}.html")
        say(f"report: {write_pair_page(RunFolder.open(run), RunFolder.open(second), page)}")
        return
    if out is not None:
        raise ConfigError(
            "--out is for the page of two comparisons; report.html of one is written into its folder"
        )
    folder = RunFolder.open(run)
    print_report_path(write_run_page(folder, True) if features else write_page(folder), quiet=False)
