"""
The time of a round between real processes: a coordinator with its gate, and a SuperNode and a SuperExec for each site, all on this machine.

Each load is measured with fedtl and then with Flower alone: its own SuperLink and SuperNodes with TLS and node keys, without a gate,
with FedAvg over the same tensors and a plain PyTorch loop of as many steps. The numbers of fedtl are compared with those of its simulation,
bit by bit. A round is timed at the coordinator; the first one, in which processes start, does not count.

Before and after each measurement one floor is compared with several at once (``crowding``). Where the machine is loaded, no bar is judged.

Every measurement is a process of its own with a time limit (--limit). One that reaches it is ended with all that it started, and the
rounds that it finished are shown and kept; so are the results of the others.
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

import bars
import deploy_fedtl
import deploy_flower
import machine
from crowding import crowding
from deploy_limited import run_limited
from deploy_load import LOADS, DeployLoad, SiteFailed, write_rows
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
CONTENDERS = {"fedtl": deploy_fedtl, "Flower alone": deploy_flower}
LIMIT_SECONDS = 900.0  # of one measurement
NOTES = (
    "Every process runs on this machine, so sites share its cores; at institutions each site has its own.",
    "seconds: of each round after the first, from the end of the one before, as history.jsonl has them.",
    f"beside: how many times as long as one floor as many at once as cores take, the larger of before and after; above {bars.CROWDED} the machine "
    "is loaded, and no bar is judged.",
    "mib: largest resident memory of the coordinator's ServerApp and SuperLink, in MiB.",
    "flower: its default pauses, a new process for each message, an object of each tensor. Its aggregate is not compared.",
)


@dataclass(frozen=True)
class Measured:
    """
    ``seconds``: of the rounds after the first. ``same``: whether fedtl's shared tensors have the bits of the simulation; None where they were
    not compared. ``problem``: why not all rounds were measured, "" where they were. ``beside``: how loaded the machine was; None: not measured.
    """

    load: str
    who: str
    seconds: Sequence[float]
    mib: dict[str, float]
    same: bool | None = None
    problem: str = ""
    beside: float | None = None

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None


def measure_here(load: DeployLoad, who: str, rounds: int, work: Path) -> Measured:
    """Measure one load of one contender in this process, in the empty folder ``work``. Raises SiteFailed."""
    write_rows(load, work / "rows")
    seconds, mib, same = CONTENDERS[who].measure(load, rounds + 1, work)
    return Measured(load.name, who, seconds[1:], mib, same)


def measure(load: DeployLoad, who: str, given: argparse.Namespace) -> Measured:
    """Measure one load of one contender in a process of its own, for at most ``given.limit`` seconds."""
    with TemporaryDirectory(prefix="fedtl-bench-", ignore_cleanup_errors=True) as folder:
        work, part = Path(folder) / "work", Path(folder) / "part.json"
        work.mkdir()
        command = [sys.executable, __file__, "--only", load.name, "--rounds", str(given.rounds)]
        command += ["--contender", who, "--work", str(work), "--out", str(part)]
        ended = run_limited(command + (["--quick"] if given.quick else []), given.limit)
        if part.is_file():
            return Measured(**json.loads(part.read_text()))
        seconds = CONTENDERS[who].finished(work)[1:]
        why = f"exit code {ended.code}" if ended.code is not None else f"ended after {given.limit:g} s"
        return Measured(load.name, who, seconds, {}, None, f"{why}: {len(seconds)} of {given.rounds} rounds")


def verdicts(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compare the medians of fedtl with the bars of the loads, and with Flower's. "met" is None where the machine was loaded, as "why" says."""
    flower = {one.load: one.median for one in found if one.who != "fedtl" and one.median}
    return [
        {
            "load": one.load,
            "seconds": one.median,
            "bar": LOADS[one.load].bar,
            **_judged(one, one.median),
            "same_bits_as_simulation": one.same,
            "ratio_to_flower": one.median / flower[one.load] if one.load in flower else None,
        }
        for one in found
        if one.who == "fedtl" and one.median is not None
    ]


def _judged(one: Measured, seconds: float) -> dict[str, Any]:
    bar = LOADS[one.load].bar
    met = not one.problem and seconds <= bar and one.same is not False
    beside = None if one.same is False else one.beside  # load changes no bit
    verdict = bars.conclude(one.load, one.who, f"at most {bar:g} s", seconds, met, beside)
    return {"met": verdict.met, "why": verdict.why}


def table(found: Sequence[Measured], judged: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title=f"seconds a round between real processes; {machine.cpu()}, {machine.cores()} cores")
    for column in ("load", "who", "median", "min - max", "MiB", "bar", "same bits", "x Flower", "problem"):
        shown.add_column(column, justify="left" if column in ("load", "who", "problem") else "right")
    for one in found:
        bar = next((bar for bar in judged if one.who == "fedtl" and bar["load"] == one.load), None)
        ratio = bar and bar["ratio_to_flower"]
        shown.add_row(
            one.load,
            one.who,
            f"{one.median:.2f}" if one.median is not None else "",
            f"{min(one.seconds):.2f} - {max(one.seconds):.2f}" if one.seconds else "",
            ", ".join(f"{name} {mib:.0f}" for name, mib in one.mib.items()),
            f"{bar['bar']:g} s, {_said(bar)}" if bar else "",
            str(one.same) if bar else "",
            f"{ratio:.2f}" if ratio else "",
            one.problem,
        )
    return shown


def _said(bar: dict[str, Any]) -> str:
    return f"not concluded: {bar['why']}" if bar["met"] is None else "met" if bar["met"] else "NOT MET"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(LOADS), help="loads, with commas between them")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--no-flower", action="store_true", help="do not measure Flower alone")
    parser.add_argument("--quick", action="store_true", help="two sites and few rows; the times mean nothing")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds of one measurement")
    parser.add_argument("--out", type=Path, metavar="JSON")
    parser.add_argument(
        "--contender", choices=CONTENDERS, help=argparse.SUPPRESS
    )  # in this process, in --work
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
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
    loads = [replace(LOADS[name], sites=2, rows=40) if given.quick else LOADS[name] for name in given.only]
    if given.contender:
        try:
            (load,) = loads
            own = measure_here(load, given.contender, given.rounds, given.work)
        except SiteFailed as error:
            sys.exit(f"{load.name}: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        given.out.write_text(json.dumps(asdict(own)))
        return
    path = given.out or HERE / f"{machine.slug()}-{now:%Y-%m-%d}-deploy.json"
    about, found = machine.description(), []
    try:
        for load in loads:
            for who in ["fedtl"] if given.no_flower else CONTENDERS:
                print(f"{load.name}: {who}", file=sys.stderr, flush=True)
                before = crowding(max(2, machine.cores()), given.quick)
                one = measure(load, who, given)
                found.append(replace(one, beside=max(before, crowding(max(2, machine.cores()), given.quick))))
                result = {
                    "date": f"{now:%Y-%m-%d}",
                    "machine": about,
                    "settings": {"rounds": given.rounds, "quick": given.quick, "limit": given.limit},
                    "notes": NOTES,
                    "loads": {name: asdict(LOADS[name]) for name in given.only},
                    "measured": [{**asdict(one), "median": one.median} for one in found],
                    "bars": verdicts(found),
                }
                path.write_text(json.dumps(result, indent=1) + "\n")  # after each one
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    if found:
        Console(width=None if sys.stdout.isatty() else 160).print(table(found, verdicts(found)))
        print(f"wrote {path}", file=sys.stderr)
    if any(one.problem for one in found) or len(found) < len(loads) * (
        1 if given.no_flower else len(CONTENDERS)
    ):
        sys.exit("not every round was measured")


if __name__ == "__main__":
    main()
