"""Print what the benchmark measured: a table of ratios with the verdict of each bar, and a table of many silos."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def table(result: dict[str, Any]) -> Table:
    """The table of ratios and bars."""
    shown = Table(title=f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['date']}")
    shown.add_column("load")
    shown.add_column("who")
    for column in ("s per round", "min - max", "x floor"):
        shown.add_column(column, justify="right")
    shown.add_column("bar")
    for name, its in result["loads"].items():
        for who, figures in its["contenders"].items():
            spread = f"{figures['min']:.3f} - {figures['max']:.3f}"
            judged = "\n".join(
                _judged(bar) for bar in result["bars"] if (bar["load"], bar["who"]) == (name, who)
            )
            shown.add_row(
                name, who, f"{figures['median']:.3f}", spread, f"{figures['ratio_to_floor']:.2f}", judged
            )
        for who, reason in its["skipped"].items():
            shown.add_row(name, who, "-", "-", "-", f"skipped: {reason}")
        shown.add_section()
    for bar in result["bars"]:
        if bar["load"] == "all":
            shown.add_row("", bar["who"], "", "", "", _judged(bar))
    return shown


def _judged(bar: dict[str, Any]) -> str:
    claim = bar["claim"].removeprefix(f"{bar['who']} ")
    said = {True: "met", False: "NOT MET", None: f"not concluded: {bar['why']}"}
    return f"{claim}: {bar['value']:.2f}, {said[bar['met']]}"


def silo_table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(title="tiny MLP, 45 training rows per silo, a complete run with checkpoints")
    for column in (
        "silos",
        "who",
        "rounds per second",
        "ms per silo and round",
        "MiB of the parent in rounds",
        "peak MiB",
    ):
        shown.add_column(column, justify="right")
    for row in rows:
        figures = (
            (row["failed"], "", "", "")
            if "failed" in row
            else (
                f"{row['rounds_per_second']:.2f}",
                f"{row['ms_per_silo_and_round']:.2f}",
                f"{row['mib_in_rounds']:.1f}",
                f"{row['mib_peak']:.1f}",
            )
        )
        shown.add_row(str(row["silos"]), row["who"], *figures)
    return shown


def report(result: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(result))
    if result["silos"]:
        console.print(silo_table(result["silos"]))
