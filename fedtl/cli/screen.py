"""Print lines, tables, JSON and progress bars. Results go to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

from fedtl._util.records import to_plain

if TYPE_CHECKING:
    from fedtl.experiment.run_folder import RunFolder

out_console, err_console = Console(), Console(stderr=True)


def print_line(text: str, style: str = "") -> None:
    """Print a line of a result to stdout, as it is: not wrapped, no markup."""
    out_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """Print a line to stderr, as it is: not wrapped, no markup."""
    err_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say(f"warning: {text}", style="yellow")


def print_table(title: str, rows: Sequence[Mapping[str, str | Sequence[str]]]) -> None:
    """Print rows that all have the same keys, which are the columns."""
    table = Table(*rows[0], title=escape(title))
    for row in rows:
        table.add_row(
            *(cell if isinstance(cell, str) else " ".join(cell) or "nothing" for cell in row.values())
        )
    out_console.print(table)


def print_json(content: Any) -> None:
    """Print a record or plain values as JSON to stdout. Raises ValueError for NaN and infinity."""
    sys.stdout.write(json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n")


def print_report_path(page: Path, quiet: bool) -> None:
    """Print where the results are: the page, or with --quiet the folder."""
    say(str(page.parent) if quiet else f"report: {page}")


class ShowProgress(Protocol):
    """Show how many parts are done, how many there are, and what is being done."""

    def __call__(self, done: int, total: int, detail: str = "") -> None: ...


class ShowRounds(Protocol):
    """Show how many rounds are done; ``total``: of how many, where that was not known before."""

    def __call__(self, done: int, total: int = ...) -> None: ...


@contextmanager
def progress_bar(title: str, silent: bool) -> Iterator[ShowProgress]:
    """Show a progress bar on a terminal. Yields the function that updates it."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err_console,
        disable=silent or not err_console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, total: int, detail: str = "") -> None:
            text = f"{title}: {detail}" if detail else title
            bar.update(task, completed=done, total=total, description=text)

        yield show


@contextmanager
def training_progress(title: str, rounds: int, folder: "RunFolder", silent: bool) -> Iterator[ShowRounds]:
    """
    Show the progress of a training, and at its first round where the results go.

    Yields a function of how many rounds are done, and of how many there are, if these are not ``rounds``. The folder is
    not printed earlier, because a command that fails before the first round removes it.
    """
    with progress_bar(title, silent) as bar:
        announced = silent

        def show(done: int, total: int = rounds) -> None:
            nonlocal announced
            bar(done, total)
            if done and not announced:
                announced = True
                say(f"results go to {folder.path}")

        bar(0, rounds)
        yield show
