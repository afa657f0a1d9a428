"""
The performance targets that simulations/bench/bars.py has today, each judged by the newest file of simulations/bench in which it can be:
from the seconds in the file, whatever the targets were when it was written.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reference.markdown import escaped, table
from reference.measured import BENCH, LOADS, about, newest, on_cpu, ratio_of, read

sys.path.append(str(BENCH))  # its modules are scripts in one folder, not a package
import bars

WORKERS = 2  # of the files that are committed
NONE = "not measured in a file here"
STEPS = {
    "step of the convnet, 28 px, 32 rows": "the convnet (32 rows)",
    "step of ResNet-18, 32 px, 16 rows": "ResNet-18 (16 rows of 32 px)",
}
Judged = tuple[bars.Verdict, Path]


def speed_bars() -> str:
    """Return a table of all targets: what each demands, what was measured, and whether it was reached."""
    targets = bars.bars(WORKERS)
    order = list(dict.fromkeys(bar.load for bar in targets))
    targets.sort(key=lambda bar: order.index(bar.load))
    found = [(LOADS.get(bar.load, bar.load), bar.claim, judge(bar)) for bar in targets]
    found += [("silos", f"{one.who}, {one.claim}", (one, path)) for one, path in _crowd()]
    paths = list(dict.fromkeys(judged[1] for _, _, judged in found if judged))
    letters = {path: chr(ord("a") + at) for at, path in enumerate(paths)}
    rows = [
        [escaped(load), escaped(claim), *(_cells(*judged, letters) if judged else ("", NONE))]
        for load, claim, judged in found
    ]
    sources = "; ".join(f"({letters[path]}) {about(path)}" for path in paths)
    return f"{table(['load', 'target', 'measured', ''], rows)}\n\nMeasured on {sources}."


def private_step() -> str:
    """Return how long a private step takes against a plain one, as a sentence, and whether that reaches the targets."""
    path = newest("-steps")
    loads = read(path)["loads"]

    def times(who: str) -> str:
        found = (
            f"{ratio_of(loads[load]['contenders'][who])} times on {name}" for load, name in STEPS.items()
        )
        return " and ".join(found)

    limits = [(bar, judge(bar)) for bar in bars.bars(WORKERS) if bar.load in STEPS]
    targets = " and ".join(
        f"{bar.bound:g} ({words(judged[0]) if judged else NONE})" for bar, judged in limits
    )
    return (
        f"Measured on {about(path)}: a private step takes, against a plain one, {times(bars.FAST)}, noise included; with the hooks of "
        f"Opacus {times(bars.HOOKS)} (`simulations/bench/bench.py --only steps`). The targets are at most {targets}."
    )


def judge(bar: bars.Bar) -> Judged | None:
    """Return the verdict by the newest file that has both contenders of a bar, and the file; None where no file has."""
    for path in on_cpu():
        part = _part(read(path), bar.load)
        if part and (verdict := next((one for one in _verdicts(bar, part)), None)):
            return verdict, path
    return None


def words(verdict: bars.Verdict) -> str:
    """Return whether a target was reached, in words."""
    said = {True: "reached", False: "**not reached**", None: f"**not concluded**: {verdict.why}"}
    return said[verdict.met]


def _verdicts(bar: bars.Bar, part: dict[str, Any]) -> Iterator[bars.Verdict]:
    beside = [part[key] for key in ("beside_before", "beside_after") if key in part]
    times = bars.read_times(part["contenders"])
    for verdict in bars.verdicts(bar.load, times, WORKERS, max(beside, default=None)):
        if verdict.claim == bar.claim:
            yield verdict


def _part(content: dict[str, Any], load: str) -> dict[str, Any] | None:
    loads = content.get("loads")
    part = loads.get(load) if isinstance(loads, dict) else None
    return part if part and "contenders" in part else None


def _crowd() -> list[Judged]:
    for path in on_cpu():
        content = read(path)
        if rows := content.get("silos"):
            return [(one, path) for one in bars.crowd(rows, content.get("silos_beside"))]
    return []


def _cells(verdict: bars.Verdict, path: Path, letters: dict[Path, str]) -> tuple[str, str]:
    return f"{verdict.value:.2f} ({letters[path]})", words(verdict)
