"""
Tables of what was measured, from the newest files of simulations/bench and from simulations/private: a new file there is all that a
page needs.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reference.markdown import escaped, table

SIMULATIONS = Path(__file__).parents[3] / "simulations"
BENCH, PRIVATE = SIMULATIONS / "bench", SIMULATIONS / "private"
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2})")
ON_CPU = re.compile(
    rf"-cores?{DATED.pattern}"
)  # between real processes, or on a GPU, a word stands between them
# Columns of each table: the load of the file, and what it is called.
LOADS = {"mlp": "tiny MLP", "convnet": "convnet", "resnet18": "ResNet-18"}
SMALL_LOADS = {"mlp": "tiny MLP", "linear": "linear, 1,000 silos", "school": "linear, as School"}
STEPS = {
    "step of the convnet, 28 px, 32 rows": "the convnet (32 rows)",
    "step of ResNet-18, 32 px, 16 rows": "ResNet-18 (16 rows of 32 px)",
}
FLOOR, FEDTL = "floor", "fedtl, 1 worker"
FAST, HOOKS = "private step, book-keeping", "private step, Opacus' hooks"
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


def private_step() -> str:
    """Return how long a private step takes against a plain one, as a sentence."""
    path = newest("-steps")
    loads = _read(path)["loads"]

    def times(who: str) -> str:
        found = (f"{_ratio(loads[load]['contenders'][who])} times on {name}" for load, name in STEPS.items())
        return " and ".join(found)

    return (
        f"Measured on {_about(path)}: a private step takes, against a plain one, {times(FAST)}, noise included; with the hooks of Opacus "
        f"{times(HOOKS)} (`simulations/bench/bench.py --only steps`)."
    )


def private_cost() -> str:
    """Return the accuracy of each row of simulations/private, as released: before a silo tunes its model at home."""
    tables = {name: _read(PRIVATE / f"{name}.json")["table"] for name in SETS}
    names = list(dict.fromkeys(row for one in tables.values() for row in one))
    rows = [[ROWS.get(name, name), *(_cell(one.get(name, {})) for one in tables.values())] for name in names]
    return table(["accuracy (%); private rows: epsilon 1 / 3 / 8", *SETS], rows)


def private_at_home() -> str:
    """Return the accuracy of each row of simulations/private/digits-at-home.json, as released and as the silo uses it, by epsilon."""
    runs = _read(PRIVATE / "digits-at-home.json")["runs"]
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
    """Return a table with each cell from the newest file that has it, a letter for each file where there are several, and the bars not reached."""
    found = {load: _by_contender(load) for load in columns}
    names = dict.fromkeys(who for cells in found.values() for who in cells)
    who = [name for name in names if name not in (FLOOR, *without) and (not only or name in only)]
    used = [cells[name] for name in who for cells in found.values() if name in cells]
    paths = sorted({path for path, _ in used}, key=_date, reverse=True)
    letters = {path: f" ({chr(ord('a') + at)})" if len(paths) > 1 else "" for at, path in enumerate(paths)}

    def cell(load: str, name: str) -> str:
        path, ratio = found[load].get(name, (None, ""))
        return f"{ratio}{letters[path]}" if path else ""

    rows = [[CALLED.get(name, name), *(cell(load, name) for load in columns)] for name in who]
    sources = "; ".join(f"{letters[path].lstrip()} {_about(path)}".lstrip() for path in paths)
    return f"{table(['times the floor', *columns.values()], rows)}\n\nMeasured on {sources}.{_missed(columns, found)}"


def _by_contender(load: str) -> dict[str, tuple[Path, str]]:
    """Return for each contender of a load the newest file that has it, and its ratio to the floor there."""
    files = [path for path in BENCH.glob("*.json") if ON_CPU.search(path.name)]
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(files, key=_date, reverse=True):
        loads = _read(path).get("loads")
        contenders = loads.get(load, {}).get("contenders", {}) if isinstance(loads, dict) else {}
        for name, its in contenders.items():
            if ratio := _ratio(its):
                found.setdefault(name, (path, ratio))
    return found


def _missed(columns: Mapping[str, str], found: Mapping[str, Mapping[str, tuple[Path, str]]]) -> str:
    """Return the bars that were not reached, by the newest file in which fedtl was measured on each load."""
    said = ""
    for load, cells in found.items():
        path, _ = cells[FEDTL]
        missed = [bar for bar in _read(path)["bars"] if not bar["met"] and bar["load"] == load]
        for bar in missed:
            said += f" Not reached: {escaped(bar['claim'])} on {columns[load]} ({bar['value']:.2f})."
    return said


def _date(path: Path) -> tuple[str, str]:
    return DATED.findall(path.name)[-1], path.name


def _ratio(contender: Mapping[str, Any]) -> str:
    return f"{contender['ratio_to_floor']:.2f}" if "ratio_to_floor" in contender else ""


def _about(path: Path) -> str:
    content = _read(path)
    its, versions = content["machine"], content["machine"]["versions"]
    others = (
        f"{name} {version}"
        for name, version in versions.items()
        if version and name in ("torch", "flwr", "pfl")
    )
    return f"{content['date']}, {its['cpu']}, {its['cores']} cores, {', '.join(others)} (`simulations/bench/{path.name}`)"


def _cell(cells: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [cells[key] for key in ("none", *EPSILONS) if key in cells]
    return " / ".join(
        f"{100 * one['mean']:.1f} ±{100 * one['half']:.1f}"
        for one in (cell.get("received", cell) for cell in shown)
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
