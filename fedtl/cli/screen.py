"""What every command prints with: consoles, options, progress, tables."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from fedtl._util.records import to_plain
from fedtl.errors import ConfigError

if TYPE_CHECKING:
    from fedtl.experiment.run_folder import RunFolder
    from fedtl.results.run import RunResult

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


def say(text: str) -> None:
    err_console.print(text, highlight=False, markup=False, soft_wrap=True)


def device_for(asked: str) -> str:
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {asked!r} is not auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this torch sees no CUDA device; use --device auto or cpu")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def bar_columns() -> tuple[ProgressColumn, ...]:
    """The columns of every progress bar: what is done, how many parts of how many, and the time so far."""
    return (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )


@contextmanager
def progress(silent: bool, title: str, total: int, folder: "RunFolder") -> Iterator[Callable[[int], None]]:
    """
    A function to call with what is done so far. Where the results go is said at the first call: whatever was
    wrong with the experiment has been said by then, and the folder stays.
    """
    said = silent
    with Progress(
        *bar_columns(), console=err_console, disable=silent or not err_console.is_terminal, transient=True
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


@contextmanager
def steps(title: str, silent: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for work of known parts: a function to call with how many are done and how many there are."""
    with Progress(
        *bar_columns(), console=err_console, disable=silent or not err_console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_left_out(result: "RunResult") -> None:
    for reasons in result.left_out.values():
        err_console.print(
            f"warning: left out {len(reasons)} times: {reasons[-1]}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for note in result.notes:
        err_console.print(f"note: {note}", highlight=False, markup=False)


def close(page: Path, quiet: bool) -> None:
    if quiet:
        err_console.print(str(page.parent), highlight=False, markup=False, soft_wrap=True)
    else:
        err_console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    table = Table(*rows[0], title=escape(title))
    for row in rows:
        table.add_row(*(" ".join(v) or "nothing" if isinstance(v, list) else v for v in row.values()))
    out_console.print(table)


def print_json(content: Any) -> None:
    """Print a record or plain values."""
    sys.stdout.write(json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n")
