"""``fedtl watch``: a run or a comparison while it trains, read from its folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Run
from fedtl.cli.run_folder import only_watches
from fedtl.cli.screen import out_console, print_line


def watch(
    run: Run,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two updates of the display")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="print the present state and end")] = False,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="also write each round to this folder as events for TensorBoard"),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="also write a line of JSON to this file for each silo in each round"
        ),
    ] = None,
) -> None:
    """
    Show a run while it trains: round, time left, and each silo's validation metric by round, until the run ends or Ctrl-C.

    RUN is the folder of fedtl run or compare; another process may write it, also on another machine that shares the disk.
    Of a comparison, the run that wrote last is shown. Without a terminal: a line a round.

    With --tensorboard, tensorboard --logdir DIR shows a curve for each silo and metric; this needs the extra "tensorboard" of fedtl.
    With --metrics, other tools read FILE, such as metrics.jsonl: a JSON object a line.

    Example: fedtl watch runs/digits
    """
    import time

    from rich.live import Live

    from fedtl.experiment.watched import Watched, look
    from fedtl.report.live_table import live_line, live_view

    def looks(write: Callable[[], None]) -> Iterator[Watched]:
        while True:
            now = look(run)
            write()
            yield now
            if now.ended or once:
                return
            time.sleep(every)

    only_watches()
    with _round_writer(run, tensorboard, metrics) as write:
        if once:
            for now in looks(write):
                out_console.print(live_view(now.path.name, now.rounds, now.metric, now.lines))
        elif out_console.is_terminal:
            with Live(console=out_console, refresh_per_second=4) as live:
                for now in looks(write):
                    live.update(live_view(now.path.name, now.rounds, now.metric, now.lines))
        else:
            shown = ""
            for now in looks(write):
                if (line := live_line(now.path.name, now.rounds, now.metric, now.lines)) != shown:
                    print_line(line)
                    shown = line


@contextmanager
def _round_writer(run: Path, events: Path | None, metrics: Path | None) -> Iterator[Callable[[], None]]:
    """Yield what writes the rounds so far as ``events`` into a folder and as ``metrics`` into a file, where they are asked for."""
    from fedtl.experiment.watched import histories
    from fedtl.report.events import RoundEvents
    from fedtl.report.metrics_lines import MetricsFile
    from fedtl.report.round_writer import RoundWriter

    with ExitStack() as open_files:
        writers: list[RoundWriter] = []
        if events:
            writers.append(open_files.enter_context(RoundEvents(events)))
        if metrics:
            writers.append(open_files.enter_context(MetricsFile(metrics)))

        def write() -> None:
            for name, lines in histories(run) if writers else ():
                for writer in writers:
                    writer.write(name, lines)

        yield write
