"""The tables that ``gpu.py`` prints."""

import sys
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


def report(result: dict[str, Any]) -> None:
    """Print what was measured, and what failed."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    its = result["machine"]
    console.print(
        f"{its.get('gpu', its['cpu'])}, {its['cores']} cores, torch {its['versions']['torch']}, {result['date']}"
    )
    console.print(_silos(result))
    for name, found in result["parts"].items():
        rest = {key: its for key, its in found.items() if key not in ("load", "ways")}
        console.print(f"[bold]{name}[/bold]")
        for line in _lines(rest):
            console.print(f"  {line}", highlight=False)
    for line in dict.fromkeys(result["warnings"]):
        console.print(f"WARNING {line}", markup=False)
    for name, problem in result["failed"].items():
        console.print(f"FAILED {name}: {problem}", markup=False)


def _silos(result: dict[str, Any]) -> Table:
    table = Table(title="A round of 64 silos")
    for column in (
        "model",
        "who",
        "s a round",
        "min - max",
        "x faster",
        "waits a step",
        "distance",
        "MiB",
        "used %",
    ):
        table.add_column(column)
    for name, found in result["parts"].items():
        if not name.startswith("silos"):
            continue
        for who, its in found["ways"].items():
            seconds, used = its["seconds"], its["utilisation_percent"]
            table.add_row(
                name.partition(": ")[2],
                who,
                f"{median(seconds):.4f}",
                f"{min(seconds):.4f} - {max(seconds):.4f}",
                f"{found['serial_over_stacked']:.2f}" if who.startswith("stack") else "1",
                _waits(its["waits_per_step"]),
                f"{its['distance']:.1e}",
                "-" if its["peak_mib"] is None else f"{its['peak_mib']:.0f}",
                "-" if used is None else f"{used:.0f}",
            )
    return table


def _waits(by_name: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:.2f}" for name, count in by_name.items() if count) or "none"


def _lines(found: Any, above: str = "") -> list[str]:
    """Return a nested result as lines of a name and a value; lists of seconds as their median, least and most."""
    if isinstance(found, dict):
        if "waits" in above:
            return [f"{above}: {_waits(found)}"]
        parts = (_lines(its, f"{above} / {name}" if above else str(name)) for name, its in found.items())
        return [line for part in parts for line in part]
    if isinstance(found, list) and found and all(isinstance(one, float) for one in found):
        return [f"{above}: {median(found):.4f} ({min(found):.4f} - {max(found):.4f})"]
    return [f"{above}: {found:.4g}" if isinstance(found, float) else f"{above}: {found}"]
