"""A run while it trains, for a terminal: its silos with their metric by round as small bars."""

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedtl._util.counted import counted
from fedtl.report.figures import TITLES, format_value
from fedtl.results.run import HistoryLine

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 30  # rounds that have a bar; with more rounds, each bar is the last of several
MAX_SILOS = 40


def live_view(name: str, rounds: int, metric: str, lines: Sequence[HistoryLine]) -> Group:
    """Return the line of ``live_line`` and, once a round has ended, the table below it. A title would be as narrow as the table."""
    shown: list[Text | Table] = [Text(live_line(name, rounds, metric, lines))]
    return Group(*shown, *([live_table(metric, lines)] if lines else []))


def live_table(metric: str, lines: Sequence[HistoryLine]) -> Table:
    """Return one row a silo: its metric after the last round that counted it, by round, and how often and why it was left out."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("silo")
    table.add_column(f"{TITLES.get(metric, metric)}, validation", justify="right")
    table.add_column("by round")
    table.add_column("left out")
    silos = sorted({silo for line in lines for silo in (*line.silos, *line.left_out)})
    for silo in silos[:MAX_SILOS]:
        values = [line.silos.get(silo, {}).get(metric, math.nan) for line in lines]
        known = [value for value in values if math.isfinite(value)]
        now = format_value(metric, known[-1]) if known else "-"
        table.add_row(Text(silo), now, bars(values), Text(_left_out(silo, lines)))
    if len(silos) > MAX_SILOS:
        table.caption, table.caption_justify = f"and {counted(len(silos) - MAX_SILOS, 'silo')} more", "left"
    return table


def live_line(name: str, rounds: int, metric: str, lines: Sequence[HistoryLine]) -> str:
    """Return one line: the round, the mean of the metric over silos, and the seconds that the remaining rounds may take."""
    if not lines:
        return f"{name}: 0 of {rounds} rounds have ended"
    last = lines[-1]
    values = [figures[metric] for figures in last.silos.values() if metric in figures]
    mean = (
        f", mean {TITLES.get(metric, metric)} {format_value(metric, sum(values) / len(values))}"
        if values
        else ""
    )
    seconds = sorted(line.seconds for line in lines)[len(lines) // 2]
    left = f", about {seconds * (rounds - last.round):.0f} s left" if last.round < rounds else ""
    out = f", left out: {', '.join(sorted(last.left_out))}" if last.left_out else ""
    return f"{name}: round {last.round} of {rounds}{mean}, {seconds:.3g} s a round{left}{out}"


def bars(values: Sequence[float]) -> str:
    """Return a bar for each of at most ``WIDTH`` rounds, from the lowest value to the highest; a blank where there is none."""
    step = max(1, math.ceil(len(values) / WIDTH))
    shown = list(values)[::-1][::step][::-1]  # with the last one
    known = [value for value in shown if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in shown)


def _left_out(silo: str, lines: Sequence[HistoryLine]) -> str:
    reasons: Mapping[int, str] = {line.round: line.left_out[silo] for line in lines if silo in line.left_out}
    if not reasons:
        return ""
    last = max(reasons)
    return f"{counted(len(reasons), 'round')}; in {last}: {reasons[last]}"
