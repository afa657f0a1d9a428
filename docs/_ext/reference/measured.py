"""
Tables of what was measured, from the newest files of simulations/bench and from simulations/private: a new file there is all that a
page needs.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reference.markdown import table

SIMULATIONS = Path(__file__).parents[3] / "simulations"
BENCH, PRIVATE = SIMULATIONS / "bench", SIMULATIONS / "private"
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2})")
ON_CPU = re.compile(
    rf"-cores?{DATED.pattern}"
)  # between real processes, or on a GPU, a word stands between them
# Columns of each table: the load of the file, and what it is called.
LOADS = {"mlp": "tiny MLP", "convnet": "convnet", "resnet18": "ResNet-18"}
SMALL_LOADS = {"mlp": "tiny MLP", "linear": "linear, 1,000 silos", "school": "linear, as School"}
FLOOR = "floor"
CALLED = {
    "numpy": "a loop in numpy",
    "fedtl, stacked": "fedtl, stacks of 64, 1 core",
    "fedtl, stacked, 2 workers": "fedtl, stacks of 64, 2 workers",
}  # contenders that a table names otherwise
SMALL_ROWS = ("numpy", "fedtl, 1 worker", "fedtl, 2 workers", "fedtl, stacked", "fedtl, stacked, 2 workers")
SETS = ("scanner", "digits", "digits6")
EPSILONS = ("1", "3", "8")
HEAD_AT_HOME = "free baseline: `probe`, nothing trained together"
ROWS = {  # rows of simulations/private that the page names otherwise; older files have the second name of the baseline
    "alone, BatchNorm: public backbone, exact statistics and head at home": HEAD_AT_HOME,
    "free baseline: no federation, exact statistics and head at home": HEAD_AT_HOME,
    "exact statistics (UNSOUND)": "exact statistics, UNSOUND: for comparison only",
}


def newest(end: str) -> Path:
    """Return the file of the latest date whose name ends so after the date."""
    named = re.compile(rf"-cores?{DATED.pattern}{end}\.json$")
    files = [path for path in BENCH.glob("*.json") if named.search(path.name)]
    return max(files, key=lambda path: DATED.findall(path.name)[-1])


def speed() -> str:
    """Return how long a round takes against the floor, on loads of all frameworks."""
    return _rounds(LOADS, without=("fedtl, stacked", "fedtl, stacked, 2 workers"))


def speed_small() -> str:
    """Return the same of small models, without other frameworks."""
    return _rounds(SMALL_LOADS, only=SMALL_ROWS)


def private_cost() -> str:
    """Return the accuracy of each row of simulations/private, as released: before a silo tunes its model at home."""
    tables = {name: read(PRIVATE / f"{name}.json")["table"] for name in SETS}
    names = list(dict.fromkeys(row for one in tables.values() for row in one))
    rows = [[ROWS.get(name, name), *(_cell(one.get(name, {})) for one in tables.values())] for name in names]
    return table(["accuracy (%); private rows: epsilon 1 / 3 / 8", *SETS], rows)


def private_at_home() -> str:
    """Return the accuracy of each row of simulations/private/digits-at-home.json, as released and as the silo uses it, by epsilon."""
    runs = read(PRIVATE / "digits-at-home.json")["runs"]
    epsilons = sorted({run["epsilon"] for run in runs if run["epsilon"]})
    cells = {
        (run["row"], run["epsilon"]): f"{100 * run['received']:.1f}, {100 * run['accuracy']:.1f}"
        for run in runs
    }
    rows = [
        [ROWS.get(name, name), *(cells.get((name, epsilon), "") for epsilon in (None, *epsilons))]
        for name in dict.fromkeys(run["row"] for run in runs)
    ]
    head = [
        "accuracy (%) as received, and as used",
        "no privacy",
        *(f"epsilon {epsilon:g}" for epsilon in epsilons),
    ]
    return table(head, rows)


def _rounds(columns: Mapping[str, str], without: Iterable[str] = (), only: Iterable[str] = ()) -> str:
    """Return a table with each cell from the newest file that has it, and a letter for each file where there are several."""
    found = {load: _by_contender(load) for load in columns}
    names = dict.fromkeys(who for cells in found.values() for who in cells)
    who = [name for name in names if name not in (FLOOR, *without) and (not only or name in only)]
    used = [cells[name] for name in who for cells in found.values() if name in cells]
    paths = sorted({path for path, _ in used}, key=date_of, reverse=True)
    letters = {path: f" ({chr(ord('a') + at)})" if len(paths) > 1 else "" for at, path in enumerate(paths)}

    def cell(load: str, name: str) -> str:
        path, ratio = found[load].get(name, (None, ""))
        return f"{ratio}{letters[path]}" if path else ""

    rows = [[CALLED.get(name, name), *(cell(load, name) for load in columns)] for name in who]
    sources = "; ".join(f"{letters[path].lstrip()} {about(path)}".lstrip() for path in paths)
    return f"{table(['times the floor', *columns.values()], rows)}\n\nMeasured on {sources}."


def _by_contender(load: str) -> dict[str, tuple[Path, str]]:
    """Return for each contender of a load the newest file that has it, and its ratio to the floor there."""
    found: dict[str, tuple[Path, str]] = {}
    for path in on_cpu():
        loads = read(path).get("loads")
        contenders = loads.get(load, {}).get("contenders", {}) if isinstance(loads, dict) else {}
        for name, its in contenders.items():
            if ratio := ratio_of(its):
                found.setdefault(name, (path, ratio))
    return found


def on_cpu() -> list[Path]:
    """Return the files of simulations/bench/bench.py, newest first."""
    files = [path for path in BENCH.glob("*.json") if ON_CPU.search(path.name)]
    return sorted(files, key=date_of, reverse=True)


def date_of(path: Path) -> tuple[str, int, str]:
    """Return what sorts files by their date; of one day, one that is named by the part that it measured counts as newer."""
    return DATED.findall(path.name)[-1], len(path.name), path.name


def ratio_of(contender: Mapping[str, Any]) -> str:
    return f"{contender['ratio_to_floor']:.2f}" if "ratio_to_floor" in contender else ""


def about(path: Path) -> str:
    """Return when and on what a file was measured."""
    content = read(path)
    its, versions = content["machine"], content["machine"]["versions"]
    others = (
        f"{name} {version}"
        for name, version in versions.items()
        if version and name in ("torch", "flwr", "pfl")
    )
    commit = (
        f", commit {its['commit'][:8]}{' with changes' if its['changed'] else ''}"
        if its.get("commit")
        else ""
    )
    return f"{content['date']}, {its['cpu']}, {its['cores']} cores, {', '.join(others)}{commit} (`simulations/bench/{path.name}`)"


def _cell(cells: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [cells[key] for key in ("none", *EPSILONS) if key in cells]
    return " / ".join(
        f"{100 * one['mean']:.1f} ±{100 * one['half']:.1f}"
        for one in (cell.get("received", cell) for cell in shown)
    )


def read(path: Path) -> Any:
    """Return the content of a file of results."""
    return json.loads(path.read_text())
