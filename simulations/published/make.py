"""
Run experiments as published and write README.md: for each, what its paper has beside what was measured, and why they differ.

The first comment of a TOML file here names the paper, the measure and what is expected, and gives the reason for a difference:

    # Expected: local .0121, ditto .0114                    the published means
    # Expected with train.lr=0.1 at usps: fedbn 96.97       with --set train.lr=0.1, of the silo usps
    # Expected: fedper above fedavg                         where only the order can be compared

Run: python simulations/published/make.py NAME... [--keep FOLDER]. NAME is a file here or one of its runs, such as
crossover-data.deal.alpha-0.1. The run folders go to FOLDER/NAME, or are removed; a comparison that FOLDER already holds
finished is not run again. Without NAME nothing is run: what FOLDER holds is measured, and the page is written. Numbers are kept
in measured.json; a run without numbers there is "not run".
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedtl._util.records import from_plain, to_plain
from fedtl.results.comparison import Comparison

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "results"))
import measured_runs  # noqa: E402
import row_scores  # noqa: E402
from row_scores import Rows  # noqa: E402

ALL = "all silos"
PERCENT = 100.0
METRICS = {"accuracy": PERCENT, "auc": PERCENT}  # of a comparison, and the factor of the published unit
ByMethod = Mapping[str, tuple[float, ...]]  # of each seed


def half_squared_error(rows: Rows) -> float:
    """Half the mean squared error of marks from 0 to 1."""
    return float(np.mean((rows["scores"].reshape(-1) - rows["y"]) ** 2) / 2)


def squared_error(rows: Rows) -> float:
    """The mean squared error of (mark - 1) / 69, of marks from 1 to 70."""
    return 2 * row_scores.half_squared_error(rows)


OF_ROWS: dict[str, tuple[Callable[[Rows], float], bool]] = {  # and whether all rows count as one set
    "half squared error": (half_squared_error, False),
    "squared error of all rows": (squared_error, True),
}


@dataclass(frozen=True)
class Claim:
    """What is expected of ``method`` at ``silo``: the published ``value``, or a better result than the method ``below`` has."""

    silo: str
    method: str
    value: float | None = None
    below: str = ""


@dataclass(frozen=True)
class Run:
    """One comparison of a file: the settings that differ, as --set takes them, and what is expected."""

    name: str
    changes: tuple[str, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Published:
    """One file of this folder."""

    name: str
    paper: str
    measure: str
    difference: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Measured:
    """The numbers of one run: by silo and method, of each seed, in the published unit."""

    origin: measured_runs.Origin
    values: Mapping[str, ByMethod]


def read(toml: Path) -> Published:
    """Return what the first comment of the file says. Raises ValueError for a line that cannot be read."""
    lines = [line.removeprefix("#").strip() for line in _comment(toml)]
    keys = dict(line.split(": ", 1) for line in lines if line.startswith(("Paper: ", "Measure: ")))
    claims: dict[tuple[str, ...], list[Claim]] = {}
    for line in lines:
        if line.startswith("Expected"):
            found = re.fullmatch(r"Expected(?: with (.+?))?(?: at (\S+))?: (.+)", line)
            if found is None:
                raise ValueError(f"{toml.name}: {line!r}")
            changes = tuple((found[1] or "").split())
            claims.setdefault(changes, []).extend(
                _claim(one, found[2] or ALL) for one in found[3].split(", ")
            )
    runs = tuple(Run(_run_name(toml.stem, changes), changes, tuple(own)) for changes, own in claims.items())
    difference = " ".join(lines).partition("Difference: ")[2]
    return Published(toml.stem, keys["Paper"], keys["Measure"], difference, runs)


def read_all() -> list[Published]:
    """Return every file of this folder that repeats a paper, in the order of their names."""
    return [read(toml) for toml in sorted(HERE.glob("*.toml")) if toml.read_text().startswith("# Paper: ")]


def _comment(toml: Path) -> Iterator[str]:
    for line in toml.read_text().splitlines():
        if not line.startswith("#"):
            return
        yield line


def _claim(text: str, silo: str) -> Claim:
    if " above " in text:
        method, below = text.split(" above ")
        return Claim(silo, method, below=below)
    method, value = text.rsplit(" ", 1)
    return Claim(silo, method, float(value))


def _run_name(name: str, changes: Sequence[str]) -> str:
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9.]+", "-", one).strip("-") for one in changes)])


def measure(published: Published, run: Run, folder: Path, origin: measured_runs.Origin) -> Measured:
    """Return the numbers of a finished comparison at the silos that its claims name."""
    comparison = from_plain(Comparison, json.loads((folder / "comparison.json").read_text()))
    if published.measure in OF_ROWS:
        of_silo, by_rows = OF_ROWS[published.measure]
        return Measured(origin, {ALL: row_scores.by_method_and_seed(folder, comparison, of_silo, by_rows)})
    metric, factor = published.measure, METRICS[published.measure]
    values: dict[str, ByMethod] = {}
    for silo in dict.fromkeys(claim.silo for claim in run.claims):
        by_metric = (
            comparison.mean
            if silo == ALL
            else {name: own.get(silo, {}) for name, own in comparison.methods.items()}
        )
        values[silo] = {
            method: tuple(factor * value for value in own[metric].seeds)
            for method, own in by_metric.items()
            if metric in own
        }
    return Measured(origin, values)


def page(all_published: Sequence[Published], measured: Mapping[str, Measured]) -> str:
    """Return README.md."""
    lines = [
        "# Published results, with our own numbers beside",
        "",
        "Each file repeats an experiment of a paper with the rows that are here. No model is tuned at home or averaged after the last",
        "round, except where a setting says so. Mean over seeds, with the standard deviation where there are several.",
        "`python simulations/published/make.py` writes this page.",
        "",
    ]
    for published in all_published:
        lines += [f"## {published.name}", "", f"{published.paper}. Measure: {published.measure}.", ""]
        lines += ["| settings | silos | method | published | measured |", "|---|---|---|---|---|"]
        lines += [
            row for run in published.runs for row in _rows(run, published.measure, measured.get(run.name))
        ]
        lines += ["", f"Reason for a difference: {published.difference}", ""]
        for run in published.runs:
            if run.name in measured:
                origin = measured[run.name].origin
                lines.append(
                    f"- `{origin.command}` at commit {origin.commit}, on {origin.machine}: {origin.seconds} s."
                )
        lines.append("")
    return "\n".join(lines)


def _rows(run: Run, measure_name: str, measured: Measured | None) -> Iterator[str]:
    settings = " ".join(f"`{change}`" for change in run.changes) or "as in the file"
    digits = 1 if measure_name in METRICS else 4
    for claim in run.claims:
        by_method = measured.values.get(claim.silo, {}) if measured else {}
        own, other = by_method.get(claim.method), by_method.get(claim.below)
        if claim.value is not None:
            expected, found = f"{claim.value:.{digits}f}", _shown(own, digits)
        else:
            expected = f"above {claim.below}"
            found = "not run"
            if own and other:
                held = np.mean(own) > np.mean(other)
                found = f"{'yes' if held else 'no'}: {_shown(own, digits)} and {_shown(other, digits)}"
        yield f"| {settings} | {claim.silo} | {claim.method} | {expected} | {found} |"


def _shown(values: Sequence[float] | None, digits: int) -> str:
    if not values:
        return "not run"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    all_published, store = read_all(), HERE / "measured.json"
    known = {name for one in all_published for name in (one.name, *(run.name for run in one.runs))}
    if unknown := sorted(set(given.names) - known):
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(sorted(known))}")
    measured = from_plain(dict[str, Measured], json.loads(store.read_text())) if store.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        keep = (given.keep or Path(temporary)).absolute()
        keep.mkdir(parents=True, exist_ok=True)
        for published in all_published:
            for run in published.runs:
                folder = keep / run.name
                if {published.name, run.name} & set(given.names):
                    measured_runs.run(f"published/{published.name}", folder, run.changes)
                if (origin := measured_runs.finished(folder)) is not None:
                    measured[run.name] = measure(published, run, folder, origin)
                    store.write_text(json.dumps(to_plain(measured), indent=1) + "\n")
    (HERE / "README.md").write_text(page(all_published, measured))


if __name__ == "__main__":
    main()
