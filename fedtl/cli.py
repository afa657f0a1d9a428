"""The ``fedtl`` command: parses and prints, decides nothing. What it needs is imported when a command asks for it."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from fedtl.errors import ConfigError, FedTLError

if TYPE_CHECKING:
    from fedtl.experiment.schema import Experiment
    from fedtl.runfolder import RunFolder

app = typer.Typer(
    help="Federated transfer learning: institutions train one backbone together; data, head and statistics stay home.",
    epilog="Begin with: fedtl compare digits",
    pretty_exceptions_enable=False,
    add_completion=False,
)
out_console, err_console = Console(), Console(stderr=True)

Exp = Annotated[
    str,
    typer.Argument(metavar="EXP", help="an experiment: a TOML file, or the name of a shipped one (digits)"),
]
MaybeExp = Annotated[
    str | None,
    typer.Argument(metavar="EXP", help="an experiment: a TOML file, or the name of a shipped one (digits)"),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override one setting, e.g. --set train.lr=0.01; may be repeated"
    ),
]
Out = Annotated[Path | None, typer.Option(help="the folder for the results; must be new or empty")]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="go on with a run that was interrupted; its own settings hold"),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="processes at once; default: the machine's cores, or one a GPU")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress, no table: only the folder's path")]
Json = Annotated[
    bool, typer.Option("--json", help="the same facts as JSON on stdout, and nothing else there")
]
SiloName = Annotated[str, typer.Option(help="whose model")]


@app.command()
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
    from fedtl.report.tables import late_table, privacy_table, run_table
    from fedtl.study import run as run_study

    on = _device(device)
    settings, folder = _begin(experiment, set_, out, resume, workers, "run")
    with _progress(quiet or as_json, f"{settings.method.name}: round", settings.rounds, folder) as show:
        result = run_study(settings, folder, on, lambda one: show(one.after.round))
    page = _run_page(folder)
    if as_json:
        _print_json(result)
    elif not quiet:
        out_console.print(run_table(result))
        if result.get("late"):
            out_console.print(late_table(result["late"], result["metric"]))
        if result.get("privacy"):
            out_console.print(privacy_table(result["privacy"]))
        _left_out(result)
    _close(page, quiet or as_json)


@app.command()
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
    from fedtl.compare import compare as compare_study
    from fedtl.compare import variants
    from fedtl.report.tables import compare_table, late_compare_table, target_table
    from fedtl.simulate.choose import places

    overrides = list(set_ or [])
    if methods is not None:
        overrides.append(f"compare.methods={json.dumps(methods.split(','))}")
    if seeds is not None:
        if not re.fullmatch(r"\d+(,\d+)*", seeds):
            raise ConfigError(
                f"--seeds {seeds!r}: give whole numbers with commas between them, such as 0,1,2"
            )
        overrides.append(f"compare.seeds=[{seeds}]")
    on = _device(device)
    settings, folder = _begin(experiment, overrides, out, resume, workers, "compare")
    columns = variants(settings)
    rounds = len(columns) * len(settings.compare.seeds) * settings.rounds
    title = f"{len(columns)} columns, {len(settings.compare.seeds)} seeds: round"
    with _progress(quiet or as_json, title, rounds, folder) as show:
        comparison = compare_study(settings, folder, settings.engine.workers or places(on), on, show)
    page = _compare_page(folder)
    if as_json:
        _print_json(comparison)
    elif not quiet:
        out_console.print(compare_table(comparison))
        for key, table in (("target", target_table), ("late", late_compare_table)):
            if comparison.get(key):
                out_console.print(table(comparison))
        for warning in comparison["warnings"]:
            err_console.print(
                f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True
            )
    _close(page, quiet or as_json)


@app.command()
def show(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    """What an experiment would do: its settings, and for every tensor what it is and whether it leaves a silo."""
    from fedtl.experiment.file import dump, load
    from fedtl.planning import claim, terms, warning
    from fedtl.report.tables import privacy_table
    from fedtl.simulate.shelf import temporary
    from fedtl.study import build, tensor_table

    settings = load(experiment, set_ or [])
    with temporary() as shelf:
        study = build(settings, shelf, shelf)
        planned = {name: study.promise(name, Path()) for name in study.training} if settings.privacy else {}
    tensors = tensor_table(study)
    per_silo = sum(tensor["bytes"] for tensor in tensors if tensor["leaves"])
    content = {
        "experiment": settings.model_dump(exclude_none=True),
        "tensors": tensors,
        "bytes_up": per_silo,
        "bytes_down": per_silo,
        "privacy": {"silos": {name: terms(its) for name, its in planned.items()}} | claim(settings.privacy)
        if settings.privacy
        else None,
        "refused": [],
    }
    if as_json:
        _print_json(content)
        return
    out_console.print(dump(settings), highlight=False, markup=False)
    table = Table(
        "tensor", "role", "shape", "bytes", "", title=f"{settings.method.name} on {settings.model.name}"
    )
    for tensor in tensors:
        leaves = "[red]leaves[/]" if tensor["leaves"] else "[green]stays[/]"
        table.add_row(
            tensor["name"],
            tensor["role"],
            " x ".join(map(str, tensor["shape"])) or "scalar",
            f"{tensor['bytes']:,}",
            leaves,
        )
    out_console.print(table)
    out_console.print(
        f"{per_silo:,} bytes leave a silo each round and as many come in; {len(study.training)} silos train."
    )
    if settings.privacy is None:
        out_console.print(
            "Without differential privacy: what leaves can tell about a silo's rows.", style="yellow"
        )
        return
    out_console.print(privacy_table(content["privacy"]))
    for its in planned.values():
        if text := warning(its):
            _say(f"warning: {text}")


@app.command()
def lint(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    """Everything that makes an experiment's privacy untrue (exit code 2), or worth a question, at once."""
    from fedtl.experiment.file import load
    from fedtl.experiment.soundness import doubtful, unsound

    settings = load(experiment, set_ or [], sound=False)
    wrong, odd = list(unsound(settings)), list(doubtful(settings))
    if as_json:
        _print_json({"unsound": wrong, "doubtful": odd})
    else:
        for text in wrong:
            out_console.print(f"unsound: {text}", style="red", highlight=False, markup=False, soft_wrap=True)
        for text in odd:
            out_console.print(f"ask: {text}", highlight=False, markup=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(2)


@app.command()
def methods(as_json: Json = False) -> None:
    """The federated methods, what each shares, and its paper; and the loss terms that may stand beside any of them."""
    from fedtl.experiment.choices import describe
    from fedtl.method import METHODS
    from fedtl.transfer.terms import TERMS

    rows = [
        {
            "name": name,
            "shares": sorted(map(str, make().shared)),
            "settings": describe(make),
            "about": (make.__doc__ or "").strip(),
        }
        for name, make in METHODS.items()
    ]
    terms = [
        {"name": name, "settings": describe(make), "about": (make.__doc__ or "").strip()}
        for name, make in TERMS.items()
    ]
    if as_json:
        _print_json({"methods": rows, "terms": terms})
        return
    _table("methods", rows, False)
    _table('terms: [method] terms = [{ name = "coral" }]', terms, False)


@app.command()
def models(as_json: Json = False) -> None:
    """The built-in models; any timm or "torchvision/<name>" classification model besides."""
    from fedtl.models.catalogue import MODELS

    rows = [{"name": name, "about": (make.__doc__ or "").strip()} for name, make in MODELS.items()]
    rows += [
        {
            "name": "<timm name>",
            "about": "any timm model with one classifier: resnet18, vit_tiny_patch16_224, ...",
        },
        {
            "name": "torchvision/<name>",
            "about": "any torchvision classification model: torchvision/mobilenet_v2, ...",
        },
    ]
    _table("models", rows, as_json)


@app.command()
def data(as_json: Json = False) -> None:
    """The data sources that an experiment can name."""
    from fedtl.data.sources import DATA

    _table("data sources", [{"name": name, "about": source.about} for name, source in DATA.items()], as_json)


@app.command()
def predict(
    run: Run,
    silo: SiloName,
    input: Annotated[Path, typer.Option(help=".npz, .npy, .csv, .parquet, an image, or a folder of images")],
    out: Annotated[Path | None, typer.Option(help="a CSV file; default: stdout")] = None,
    as_json: Json = False,
) -> None:
    """Predictions of a silo's own model for new inputs."""
    from fedtl.predict import SiloModel, read_inputs, rows, write_csv
    from fedtl.runfolder import RunFolder

    model = SiloModel(RunFolder.open(run), silo)
    x, files = read_inputs(input, model.experiment, model.inputs)
    lines = rows(model, model.scores(x), files)
    if as_json:
        _print_json(list(lines))
    elif out is None:
        write_csv(lines, sys.stdout)
    else:
        with out.open("w", newline="") as file:
            written = write_csv(lines, file)
        err_console.print(f"{written} predictions in {out}", highlight=False)


@app.command()
def export(run: Run, silo: SiloName, out: Annotated[Path, typer.Option(help="a new folder")]) -> None:
    """A silo's own model as one ordinary PyTorch model: safetensors, its labels, and ONNX where it exports."""
    from fedtl.predict import SiloModel
    from fedtl.predict import export as export_model
    from fedtl.runfolder import RunFolder

    for line in export_model(SiloModel(RunFolder.open(run), silo), out):
        out_console.print(line, highlight=False, markup=False)


@app.command()
def report(run: Run) -> None:
    """Rebuild report.html, plots and all, from a run or comparison folder."""
    from fedtl.runfolder import RunFolder

    folder = RunFolder.open(run)
    page = _compare_page(folder) if folder.has("comparison.json") else _run_page(folder)
    _close(page, quiet=False)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        import fedtl

        out_console.print(f"fedtl {fedtl.__version__}", highlight=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        out_console.print(context.get_help(), highlight=False, markup=False)
        raise typer.Exit(2)


def main() -> None:
    """Run the command; every error of ours, or of the files it was given, is one line on stderr and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("fedtl").setLevel(logging.INFO)
    for noisy in ("httpx", "matplotlib", "timm", "huggingface_hub", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except FedTLError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 2)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)  # click's own: a wrong flag
    if code == INTERRUPTED:  # what click, too, turns Ctrl-C into
        kept = "nothing had been done yet" if _discarded() else "what was done so far is kept" + _resumable()
        _say(f"interrupted; {kept}")
    sys.exit(code or 0)


INTERRUPTED = 130
_current: list["RunFolder"] = []
_fresh: list["RunFolder"] = []  # made by this command


def _fail(text: str, code: int) -> NoReturn:
    _discarded()
    _say(f"error: {text}")
    sys.exit(code)


def _say(text: str) -> None:
    err_console.print(text, highlight=False, markup=False, soft_wrap=True)


def _discarded() -> bool:
    """Whether all that this command made was an empty run folder, which is gone now."""
    return any(folder.discard_untouched() for folder in _fresh)


def _resumable() -> str:
    if not _current:
        return ""
    command = sys.argv[1] if len(sys.argv) > 1 else "run"
    return f"; go on with: fedtl {command} --resume {_current[0].path}"


def _begin(
    name: str | None,
    overrides: list[str] | None,
    out: Path | None,
    resume: Path | None,
    workers: int | None,
    what: str,
) -> tuple["Experiment", "RunFolder"]:
    from fedtl.experiment.file import but, load
    from fedtl.runfolder import RunFolder

    if resume is not None:
        if overrides or out or name:
            raise ConfigError(
                "--resume takes its experiment and settings from the folder; leave EXP, --set and --out away"
            )
        folder = RunFolder.open(resume)
        settings = folder.experiment()
    else:
        if name is None:
            raise ConfigError(f"fedtl {what} needs an experiment: a TOML file, or digits")
        settings = load(name, overrides or [])
        stem = Path(name).stem
        path = (
            out
            or Path("runs")
            / f"{stem}-{what if what == 'compare' else settings.method.name}-{datetime.now():%Y%m%d-%H%M%S}"
        )
        if what == "compare":
            from fedtl.compare import variants

            variants(settings)
        folder = RunFolder.create(path, settings)
        _fresh.append(folder)
    _current[:] = [folder]
    if workers is not None:
        settings = but(settings, engine=settings.engine.model_copy(update={"workers": workers}))
    return settings, folder


def _device(asked: str) -> str:
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {asked!r} is not auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this torch sees no CUDA device; use --device auto or cpu")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def _progress(silent: bool, title: str, total: int, folder: "RunFolder") -> Iterator[Callable[[int], None]]:
    """
    A function to call with what is done so far. Where the results go is said at the first call: whatever was
    wrong with the experiment has been said by then, and the folder stays.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    said = silent
    with Progress(
        *columns, console=err_console, disable=silent or not err_console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(title, total=total)

        def show(done: int) -> None:
            nonlocal said
            bar.update(task, completed=done)
            if done and not said:
                said = True
                bar.console.print(
                    f"results go to {folder.path}", highlight=False, markup=False, soft_wrap=True
                )

        yield show


def _run_page(folder: "RunFolder") -> Path:
    from fedtl.report.page import run_page
    from fedtl.runfolder import write

    text = run_page(
        folder.read_json("result.json"), folder.history(), (folder.path / "experiment.toml").read_text()
    )
    write(folder.path / "report.html", lambda file: file.write_text(text))
    return folder.path / "report.html"


def _compare_page(folder: "RunFolder") -> Path:
    from fedtl.compare import folders
    from fedtl.report.page import compare_page
    from fedtl.runfolder import write
    from fedtl.summary import curves

    settings = folder.experiment()
    lines = curves(settings, folders(settings, folder))
    text = compare_page(
        folder.read_json("comparison.json"), lines, (folder.path / "experiment.toml").read_text()
    )
    write(folder.path / "report.html", lambda file: file.write_text(text))
    return folder.path / "report.html"


def _left_out(result: dict[str, Any]) -> None:
    for reasons in result.get("left_out", {}).values():
        err_console.print(
            f"warning: left out {len(reasons)} times: {reasons[-1]}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for note in result["notes"]:
        err_console.print(f"note: {note}", highlight=False, markup=False)


def _close(page: Path, quiet: bool) -> None:
    if quiet:
        err_console.print(str(page.parent), highlight=False, markup=False, soft_wrap=True)
    else:
        err_console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def _table(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    table = Table(*rows[0], title=escape(title))
    for row in rows:
        table.add_row(*(" ".join(v) or "nothing" if isinstance(v, list) else v for v in row.values()))
    out_console.print(table)


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
