"""
The time of a round between real processes: a coordinator with its gate, and a SuperNode and a SuperExec for each site, all on this machine.

Each load is measured with fedtl and then with Flower alone: its own SuperLink and SuperNodes with TLS and node keys, without a gate,
with FedAvg over the same tensors and a plain PyTorch loop of as many steps. The numbers of fedtl are compared with those of its simulation,
bit by bit. A round is timed at the coordinator; the first one, in which processes start, does not count.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import deploy_fedtl
import deploy_flower
import machine
from deploy_load import LOADS, DeployLoad, SiteFailed, write_rows
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
NOTES = (
    "Every process runs on this machine, so sites share its cores; at institutions each site has its own.",
    "seconds: of each round after the first, from the end of the one before, as history.jsonl has them.",
    "mib: largest resident memory of the coordinator's ServerApp and SuperLink, in MiB.",
    "flower: its default pauses, a new process for each message, an object of each tensor. Its aggregate is not compared.",
)


@dataclass(frozen=True)
class Measured:
    """``same``: whether fedtl's shared tensors have the bits of the simulation; None where they were not compared."""

    load: str
    who: str
    seconds: Sequence[float]
    mib: dict[str, float]
    same: bool | None = None

    @property
    def median(self) -> float:
        return median(self.seconds)


def measure(load: DeployLoad, rounds: int, with_flower: bool, say: Any) -> list[Measured]:
    """Measure one load. Raises SiteFailed where a round did not get every site's update."""
    found = []
    with TemporaryDirectory(prefix="fedtl-bench-") as folder:
        work = Path(folder)
        write_rows(load, work / "rows")
        say(f"{load.name}: fedtl")
        seconds, mib, same = deploy_fedtl.measure(load, rounds + 1, work)
        found.append(Measured(load.name, "fedtl", seconds[1:], mib, same))
        if with_flower:
            say(f"{load.name}: Flower alone")
            seconds, mib = deploy_flower.measure(load, rounds + 1, work)
            found.append(Measured(load.name, "Flower alone", seconds[1:], mib))
    return found


def verdicts(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compare the medians of fedtl with the bars of the loads, and with Flower's."""
    flower = {one.load: one.median for one in found if one.who != "fedtl"}
    return [
        {
            "load": one.load,
            "seconds": one.median,
            "bar": LOADS[one.load].bar,
            "met": one.median <= LOADS[one.load].bar and one.same is not False,
            "same_bits_as_simulation": one.same,
            "ratio_to_flower": one.median / flower[one.load] if one.load in flower else None,
        }
        for one in found
        if one.who == "fedtl"
    ]


def table(found: Sequence[Measured], bars: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title=f"seconds a round between real processes; {machine.cpu()}, {machine.cores()} cores")
    for column in ("load", "who", "median", "min - max", "MiB", "bar", "same bits", "x Flower"):
        shown.add_column(column, justify="left" if column in ("load", "who") else "right")
    for one in found:
        bar = next((bar for bar in bars if one.who == "fedtl" and bar["load"] == one.load), None)
        ratio = bar and bar["ratio_to_flower"]
        shown.add_row(
            one.load,
            one.who,
            f"{one.median:.2f}",
            f"{min(one.seconds):.2f} - {max(one.seconds):.2f}",
            ", ".join(f"{name} {mib:.0f}" for name, mib in one.mib.items()),
            f"{bar['bar']:g} s, {'met' if bar['met'] else 'NOT MET'}" if bar else "",
            str(one.same) if bar else "",
            f"{ratio:.2f}" if ratio else "",
        )
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(LOADS), help="loads, with commas between them")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--no-flower", action="store_true", help="do not measure Flower alone")
    parser.add_argument("--quick", action="store_true", help="two sites and few rows; the times mean nothing")
    parser.add_argument("--out", type=Path, metavar="JSON")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := set(given.only) - LOADS.keys():
        parser.error(f"--only {sorted(unknown)[0]}: the loads are {', '.join(LOADS)}")
    if given.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return given


def main() -> None:
    given, now = arguments(), datetime.now(UTC)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the processes end with this one

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    about = machine.description()
    found: list[Measured] = []
    for name in given.only:
        load = replace(LOADS[name], sites=2, rows=40) if given.quick else LOADS[name]
        try:
            found += measure(load, given.rounds, not given.no_flower, say)
        except SiteFailed as error:
            sys.exit(f"{name}: {error}")
    bars = verdicts(found)
    result = {
        "date": f"{now:%Y-%m-%d}",
        "machine": about,
        "settings": {"rounds": given.rounds, "quick": given.quick},
        "notes": NOTES,
        "loads": {name: asdict(LOADS[name]) for name in given.only},
        "measured": [{**asdict(one), "median": one.median} for one in found],
        "bars": bars,
    }
    path = given.out or HERE / f"{machine.slug()}-{now:%Y-%m-%d}-deploy.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 160).print(table(found, bars))
    say(f"wrote {path}")


if __name__ == "__main__":
    main()
