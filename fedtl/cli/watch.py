"""``fedtl watch``: a run or a comparison while it trains, read from its folder."""

from typing import Annotated

import typer

from fedtl.cli.options import Run
from fedtl.cli.run_folder import only_watches
from fedtl.cli.screen import out_console, print_line


def watch(
    run: Run,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="print the present state and end")] = False,
) -> None:
    """
    Show a run while it trains: round, time left, and each silo's validation metric by round, until the run ends or Ctrl-C.

    RUN is the folder of fedtl run or compare; another process may write it, also on another machine that shares the disk.
    Of a comparison, the run that wrote last is shown. Without a terminal: a line a round.

    Example: fedtl watch runs/digits
    """
    import time

    from rich.live import Live

    from fedtl.experiment.watched import look
    from fedtl.report.live_table import live_line, live_view

    only_watches()
    now = look(run)
    if once:
        out_console.print(live_view(now.path.name, now.rounds, now.metric, now.lines))
        return
    if out_console.is_terminal:
        with Live(console=out_console, refresh_per_second=4) as live:
            while True:
                live.update(live_view(now.path.name, now.rounds, now.metric, now.lines))
                if now.ended:
                    return
                time.sleep(every)
                now = look(run)
    shown = ""
    while True:
        if (line := live_line(now.path.name, now.rounds, now.metric, now.lines)) != shown:
            print_line(line)
            shown = line
        if now.ended:
            return
        time.sleep(every)
        now = look(run)
