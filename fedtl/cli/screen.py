"""Print lines, tables, JSON and progress bars. Results go to stdout, everything else to stderr."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from fedtl._util.records import to_plain

if TYPE_CHECKING:
    from fedtl.experiment.run_folder import RunFolder

SECONDS_A_LINE = 10  # between two lines of progress where there is no terminal
LONG_ENOUGH = 5.0  # seconds from which the time that is left is estimated
FEW_PARTS = 20  # up to this number of parts, the first part alone gives an estimate

# emoji: rich would print ":CD:", which a fingerprint or a path can have, as a picture.
out_console, err_console = Console(emoji=False), Console(stderr=True, emoji=False)


def print_line(text: str, style: str = "") -> None:
    """Print a line of a result to stdout, as it is: not wrapped, no markup."""
    out_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """Print a line to stderr, as it is: not wrapped, no markup."""
    err_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say(f"warning: {text}", style="yellow")


def print_entries(title: str, entries: Sequence[Mapping[str, str | Sequence[str]]]) -> None:
    """
    Print the name and the first sentence about each entry, a line each: on a terminal as much as fits, elsewhere all of it.
    """
    print_line(title, "bold")
    width = max(len(str(entry["name"])) for entry in entries)
    for entry in entries:
        line = f"  {entry['name']:<{width}}  {first_sentence(str(entry['about']))}"
        if out_console.is_terminal:
            out_console.print(Text(line), no_wrap=True, overflow="ellipsis", highlight=False)
        else:
            print_line(line)


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop that a capital letter follows; "et al. 2017" continues."""
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", text, maxsplit=1)[0]


def print_json(content: Any) -> None:
    """Print a record or plain values as JSON to stdout. Raises ValueError for NaN and infinity."""
    sys.stdout.write(json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n")


def print_report_path(page: Path, quiet: bool) -> None:
    """Print where the results are: the page, or with --quiet the folder."""
    say(str(page.parent) if quiet else f"report: {page}")


class ShowProgress(Protocol):
    """Show how many parts are done, how many there are, and what is being done."""

    def __call__(self, done: int, total: int, detail: str = "") -> None: ...


@contextmanager
def progress_bar(
    title: str, silent: bool, pause: float = SECONDS_A_LINE, counted: str = ""
) -> Iterator[ShowProgress]:
    """
    Show a progress bar on a terminal, and elsewhere lines, at most one in ``pause`` seconds; both with the time left, as soon as it
    can be estimated. ``counted``: what is counted where no detail says it. Yields the function that updates them.
    """
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=err_console,
        disable=silent or not err_console.is_terminal,
        transient=True,
    ) as bar:
        task, clock = bar.add_task(title, total=None, left=""), Clock(time.monotonic())
        last, current = clock.started, ""

        def show(done: int, total: int, detail: str = "") -> None:
            nonlocal last, current, clock
            now, text = time.monotonic(), ": ".join(filter(None, (title, detail or counted)))
            if detail != current:
                current, clock = detail, Clock(now)
            seconds = clock.left(done, total, now)
            left = f"about {duration(seconds)} left" if seconds else ""
            bar.update(task, completed=done, total=total, description=text, left=left)
            if bar.disable and not silent and done and now - last >= pause:
                last = now
                times = ", ".join(filter(None, (duration(now - clock.started), left)))
                say(f"{text}: {done} of {total} ({times})")

        yield show


@dataclass
class Clock:
    """
    Estimates the time that is left. ``before``: parts that were done when this began, such as those of an interrupted run.
    ``first``: when the first part was done. It waited for all that has to start, so it says little about many others.
    """

    started: float
    before: int | None = None
    first: float = 0.0

    def left(self, done: int, total: int, now: float) -> float:
        """Return the seconds that the remaining parts take if they take as long as those so far; 0: not known yet."""
        if self.before is None or done < self.before:
            if not done:
                return 0.0
            self.before, self.first = done - 1, now
        parts, left = done - self.before, total - done
        with_start = (now - self.started) / parts * left
        if parts > 1 and now - self.first >= LONG_ENOUGH:
            pace = (now - self.first) / (parts - 1) * left
            # Parts that are done side by side end together, so their pace shows only after a while.
            return pace if now - self.first >= self.first - self.started else max(pace, with_start)
        return with_start if left <= FEW_PARTS else 0.0


def duration(seconds: float) -> str:
    """Return a duration in words: 45 s, 3 min, 2 h 10 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class TrainingProgress:
    """
    Shows the progress of a training, and at its first round where the results go. The folder is not printed earlier, because
    a command that fails before the first round removes it.
    """

    bar: ShowProgress
    total: int
    folder: "RunFolder"
    announced: bool

    def rounds(self, done: int, total: int | None = None) -> None:
        """Show how many rounds are done; ``total``: of how many, if that is known only now."""
        self.bar(done, self.total if total is None else total)
        if done and not self.announced:
            self.announced = True
            say(f"results go to {self.folder.path}")

    def finishing(self, done: int, silos: int) -> None:
        """Show how many silos have tuned and chosen their final model."""
        self.bar(done, silos, "each silo finishes its model")


@contextmanager
def training_progress(
    title: str,
    rounds: int,
    folder: "RunFolder",
    silent: bool,
    pause: float = SECONDS_A_LINE,
    counted: str = "round",
) -> Iterator[TrainingProgress]:
    """Show the progress of a training of ``rounds`` rounds in all. ``pause``, ``counted``: as ``progress_bar``; 0: a line a round."""
    with progress_bar(title, silent, pause, counted) as bar:
        bar(0, rounds)
        yield TrainingProgress(bar, rounds, folder, announced=silent)
