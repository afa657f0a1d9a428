"""
Run experiments by ``fedtl compare`` and write what came of them: a table (NAME.md), its numbers (NAME.json) and a figure
(NAME.svg), with the command, the commit, the machine and the time that it took; and README.md, one line for each of them.
The files of an experiment in a folder of its own (transfer/NAME) are written beside it, and to transfer/README.md.

Run: python simulations/results/make.py NAME... [--ten-seeds] [--keep FOLDER]. The run folders go to FOLDER/NAME, or are removed. A
comparison that FOLDER already holds finished is not run again: its table is written anew; one that was interrupted is continued, and
its time is that of the last part. With --ten-seeds three methods are trained for ten seeds, which makes the intervals three times as
narrow as three seeds do, and the files go to ten-seeds.
"""

import argparse
import json
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from fedtl._util.records import from_plain, to_plain
from fedtl.report.figures import TITLES, format_difference, format_with_interval, silo_count_note
from fedtl.report.plots import method_dots
from fedtl.results.comparison import Comparison, Estimate, Overall

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "bench")]
import gain_bars  # noqa: E402
import machine  # noqa: E402

MAX_SILOS = 12  # that a table names
LOCAL = "local"
DEFAULT = "fedtl"
TEN_SEEDS = (
    f'compare.methods=["{LOCAL}", "fedavg", "{DEFAULT}"]',
    f"compare.seeds={list(range(10))}",
)


@dataclass(frozen=True)
class Origin:
    """
    Where numbers come from. ``seconds``: on the clock, other work on the machine included; ``cpu_seconds``: of the run alone. Both
    are of the part after the last interruption where ``interrupted``.
    """

    command: str
    commit: str
    machine: str
    seconds: int = 0
    cpu_seconds: int = 0
    interrupted: bool = False


def finished(folder: Path) -> Origin | None:
    """Return the origin of the comparison in ``folder``; None where it is not finished."""
    stamp = folder.with_name(f"{folder.name}.origin.json")
    if (folder / "comparison.json").exists() and stamp.exists():
        return Origin(**json.loads(stamp.read_text()))
    return None


def run(name: str, folder: Path, changes: Sequence[str] = ()) -> Origin:
    """
    Run the comparison into ``folder``, continue the interrupted one there, or return the origin of the finished one. ``changes``:
    settings that differ from those of the file, as --set takes them; an interrupted comparison keeps its own.
    """
    if (origin := finished(folder)) is not None:
        return origin
    words = [
        "compare",
        f"simulations/{name}.toml",
        *(word for change in changes for word in ("--set", change)),
    ]
    changed = _git(
        "status", "--porcelain", "--", ":/fedtl", ":/simulations/*.toml"
    )  # not what earlier runs wrote
    commit = _git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    about = f"{machine.cpu()}, {machine.cores()} cores, load {machine.description()['load_before']}"
    interrupted = (folder / "experiment.toml").exists()
    started = ["compare", "--resume", str(folder)] if interrupted else [*words, "--out", str(folder)]
    clock, before = time.perf_counter(), _cpu_of_children()
    subprocess.run([sys.executable, "-m", "fedtl", *started], cwd=HERE.parents[1], check=True)
    origin = Origin(
        *(shlex.join(["fedtl", *words]), commit, about),
        *(round(time.perf_counter() - clock), round(_cpu_of_children() - before)),
        interrupted,
    )
    folder.with_name(f"{folder.name}.origin.json").write_text(json.dumps(asdict(origin)))
    return origin


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()


def table(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of a table: a row for each silo, if there are few, and for all of them."""
    metric, methods = comparison.metric, list(comparison.methods)
    yield f"| {TITLES[metric]} | " + " | ".join(methods) + " |"
    yield "|---" * (len(methods) + 1) + "|"
    silos = sorted({silo for by_silo in comparison.methods.values() for silo in by_silo})
    for silo in silos if len(silos) <= MAX_SILOS else ():
        cells = [comparison.methods[name].get(silo, {}).get(metric) for name in methods]
        yield f"| {silo} | " + " | ".join(format_with_interval(metric, cell) for cell in cells) + " |"
    fewer = fewer_silos(comparison)
    means = [
        format_with_interval(metric, comparison.mean[name].get(metric)) + fewer[name] for name in methods
    ]
    yield f"| mean of {len(silos)} silos | " + " | ".join(means) + " |"
    for title, line in ROWS.items():
        found = [
            line(metric, comparison.overall[name]) if name in comparison.overall else "" for name in methods
        ]
        yield f"| {title} | " + " | ".join(found) + " |"
    yield from without_labels(comparison)


def fewer_silos(comparison: Comparison) -> dict[str, str]:
    """
    Return by method the note behind a figure over silos: " (5 of 6)" where the method has a value at five of six, as training alone
    has none at a silo without labels; otherwise "".
    """
    silos = {silo for by_silo in comparison.methods.values() for silo in by_silo}
    means = {name: by_metric.get(comparison.metric) for name, by_metric in comparison.mean.items()}
    return {
        name: silo_count_note(one.silos if (one := means.get(name)) else None, len(silos))
        for name in comparison.methods
    }


def without_labels(comparison: Comparison) -> Iterator[str]:
    """Yield for each silo without labels what the methods gain over silobn there, and which ones it takes in how many runs."""
    metric = comparison.metric
    for silo, choice in comparison.label_free.items():
        gains = {name: by_silo.get(silo) for name, by_silo in comparison.over_source.items()}
        found = [
            format_difference(metric, gain.mean, gain.ci95) if (gain := gains.get(name)) else ""
            for name in comparison.methods
        ]
        yield f"| {silo}, gain over silobn | " + " | ".join(found) + " |"
        taken = choice.chosen or {choice.best: len(comparison.seeds)}
        cells = [
            f"{taken[name]} of {sum(taken.values())} runs" if name in taken else ""
            for name in comparison.methods
        ]
        yield f"| {silo}, taken without labels | " + " | ".join(cells) + " |"
        gain = format_difference(metric, choice.gain.mean, choice.gain.ci95)
        yield f"| {silo}, gain of what is taken over silobn | {gain} |" + " |" * (len(comparison.methods) - 1)


# What is said of a method over all silos, against training alone.
ROWS = {
    "mean gain over local": lambda metric, one: format_difference(metric, one.mean.mean, one.mean.ci95),
    "silos not below local": lambda metric, one: f"{one.not_worse} of {one.silos}",
    "silos not shown to be below local": lambda metric, one: f"{one.loss_not_shown} of {one.silos}",
    "worst silo": lambda metric, one: (
        f"{one.worst} {format_difference(metric, one.worst_gain.mean, one.worst_gain.ci95)}"
    ),
}


Rows = Mapping[str, np.ndarray]  # of one silo's test rows: scores [N, width], y [N]


def mean_by_method(
    folder: Path, comparison: Comparison, of_silo: Callable[[Rows], float], by_rows: bool = False
) -> dict[str, float]:
    """
    Return by method the mean of ``of_silo`` over silos and seeds, from the stored scores of test rows; ``by_rows``: each silo
    counts by its number of rows, as if all rows were one set.
    """
    by_seed = by_method_and_seed(folder, comparison, of_silo, by_rows)
    return {name: float(np.mean(values)) for name, values in by_seed.items()}


def by_method_and_seed(
    folder: Path, comparison: Comparison, of_silo: Callable[[Rows], float], by_rows: bool = False
) -> dict[str, tuple[float, ...]]:
    """Return by method the mean over silos of each seed; a method without stored scores is left out."""
    means: dict[str, tuple[float, ...]] = {}
    for name in comparison.methods:
        values = []
        for seed in comparison.seeds:
            runs = [folder / "runs" / f"{name}-seed{seed}", *folder.glob(f"runs/{name}-seed{seed}-fold*")]
            files = sorted(file for one in runs for file in one.glob("silos/*/test.safetensors"))
            found = [load_file(file) for file in files]
            weights = [len(one["y"]) if by_rows else 1 for one in found]
            values += [float(np.average([of_silo(one) for one in found], weights=weights))] if found else []
        if values:
            means[name] = tuple(values)
    return means


def second_domain(folder: Path, comparison: Comparison) -> dict[str, dict[str, float]]:
    """
    Return by title and method the main metric on test rows of a second domain (``data.target_domain``), in the mean over silos and seeds:
    of the model as trained, and with the domain's own normalisation statistics. Nothing where there is no such domain.
    """
    titles = {
        "target": "second domain, as trained",
        "target_adabn": "second domain, statistics adapted (AdaBN)",
    }
    found: dict[str, dict[str, float]] = {}
    for key, title in titles.items():
        for name in comparison.methods:
            files = [folder / "runs" / f"{name}-seed{seed}" / "result.json" for seed in comparison.seeds]
            runs = [json.loads(file.read_text())["silos"].values() for file in files if file.is_file()]
            values = [silo[key][comparison.metric] for silos in runs for silo in silos if silo.get(key)]
            if values:
                found.setdefault(title, {})[name] = float(np.mean(values))
    return found


def half_squared_error(rows: Rows) -> float:
    """Return half the mean squared error of (score - 1) / 69, the scale of School in Motley (Wu et al., 2022)."""
    return float(np.mean(((rows["scores"].reshape(-1) - rows["y"]) / 69) ** 2) / 2)


def accuracy(rows: Rows) -> float:
    return float(np.mean(rows["scores"].argmax(1) == rows["y"]))


def numbers(comparison: Comparison, origin: Origin, further: dict[str, Any]) -> dict[str, Any]:
    """Return what the table shows, unrounded."""
    metric = comparison.metric
    return {
        **asdict(origin),
        **{
            "metric": metric,
            "model": comparison.model,
            "rounds": comparison.rounds,
            "seeds": comparison.seeds,
        },
        "mean": {
            name: to_plain(by_metric[metric])
            for name, by_metric in comparison.mean.items()
            if metric in by_metric
        },
        "overall": to_plain(comparison.overall),
        "warnings": comparison.warnings,
        **further,
    }


def write(name: str, folder: Path, origin: Origin) -> None:
    """Write the three files of one experiment."""
    comparison = from_plain(Comparison, json.loads((folder / "comparison.json").read_text()))
    if Path(name).name.startswith("school"):
        title, values = (
            "half the mean squared error of (score - 1) / 69",
            (folder, comparison, half_squared_error),
        )
    else:
        title, values = "accuracy of all silos' test rows as one set", (folder, comparison, accuracy, True)
    further = {title: mean_by_method(*values)} if comparison.metric in ("accuracy", "rmse") else {}
    further |= second_domain(folder, comparison)
    lines, fewer = list(table(comparison)), fewer_silos(comparison)
    for title, by_method in further.items():
        cells = [
            f"{by_method[method]:.4f}{fewer[method]}" if method in by_method else ""
            for method in comparison.methods
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    beside = HERE.parent / name if "/" in name else HERE / name
    beside.parent.mkdir(exist_ok=True)
    beside.with_name(f"{beside.name}.svg").write_text(method_dots(comparison))
    text = json.dumps(numbers(comparison, origin, further), indent=1) + "\n"
    beside.with_name(f"{beside.name}.json").write_text(text)
    about = (
        f"`{origin.command}` at commit {origin.commit}, on {origin.machine}: {origin.seconds} s "
        f"({origin.cpu_seconds} s of CPU time){', after an interruption' if origin.interrupted else ''}."
    )
    tested = (
        "Test rows" if comparison.folds == 1 else f"Every row tested once a seed, in {comparison.folds} folds"
    )
    how = f"{tested}; mean of {len(comparison.seeds)} seeds with its 95 % interval; {comparison.model}, {comparison.rounds} rounds."
    page = [
        f"# {name.removeprefix('results/')}",
        "",
        about,
        how,
        "",
        *lines,
        "",
        f"![{name}]({beside.name}.svg)",
        "",
    ]
    beside.with_name(f"{beside.name}.md").write_text("\n".join(page))
    print("\n".join(lines))


OVERVIEW = (
    "# Does joining help? All sets",
    "",
    "Mean over silos, and its difference from training alone with the 95 % interval. `local ensemble`: two models trained alone, "
    "averaged; what it gains is no gain of joining. `fedtl` is the default. Every method is tuned at home and averaged with the silo's "
    "own model alike. A page a set has all its methods.",
    "",
    "These are not results on unseen sets. The rule of the mix (three were compared) was chosen by test results on heart-disease, school, "
    "digits and digits6, and rounds, rate and net of digits6, spoken-digits and pneumonia after trial runs whose test results were seen. "
    "The gains of the default may be too high by this.",
    "",
    "| set | seeds | metric | local | local ensemble | fedavg | fedtl | silos where fedtl is not below local | worst silo |",
    "|---" * 9 + "|",
)


def overview() -> str:
    """Return a page with one line for each set whose numbers are here."""
    lines = list(OVERVIEW)
    for file in sorted(HERE.glob("*.json")):
        found = json.loads(file.read_text())
        metric, overall = found["metric"], from_plain_overall(found["overall"])
        local = format_with_interval(metric, from_plain(Estimate, found["mean"][LOCAL]))
        gains = [
            format_difference(metric, overall[name].mean.mean, overall[name].mean.ci95)
            if name in overall
            else ""
            for name in ("local ensemble", "fedavg", "fedtl")
        ]
        default = overall.get(DEFAULT)
        counts = (
            ["", ""]
            if default is None
            else [f"{default.not_worse} of {default.silos}", ROWS["worst silo"](metric, default)]
        )
        cells = [
            f"[{file.stem}]({file.stem}.md)",
            str(len(found["seeds"])),
            TITLES[metric],
            local,
            *gains,
            *counts,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *ten_seeds(), "", *gain_bars.section(), "", *fixed_heads(), ""])


TEN_SEEDS_TABLE = (
    "## Ten seeds",
    "",
    "With three seeds an interval has two degrees of freedom and is wide. Here three methods are trained for ten seeds; what "
    "two averaged models of one silo gain without joining stands in the table above (`local ensemble`). `not below beyond the noise`: silos "
    "whose interval does not lie below 0.",
    "",
    "| set | metric | local | fedavg | fedtl | silos where fedtl is not below local | not below beyond the noise | worst silo |",
    "|---" * 8 + "|",
)


def _rows(folder: Path, pattern: str, cells: Callable[[Path], Iterable[str]]) -> Iterator[str]:
    """Yield a line of a table for each comparison of a folder; ``cells`` returns its cells."""
    for file in sorted(folder.glob(pattern)):
        yield "| " + " | ".join(cells(file)) + " |"


def ten_seeds() -> Iterator[str]:
    """Yield the table of all sets that were compared for ten seeds, and what it says of the default."""
    defaults: list[Overall] = []

    def cells(file: Path) -> list[str]:
        found = json.loads(file.read_text())
        metric, overall = found["metric"], from_plain_overall(found["overall"])
        default = overall[DEFAULT]
        defaults.append(default)
        local = format_with_interval(metric, from_plain(Estimate, found["mean"][LOCAL]))
        gains = [ROWS["mean gain over local"](metric, overall[name]) for name in ("fedavg", DEFAULT)]
        counts = (default.not_worse, default.loss_not_shown)
        of_silos = [f"{count} of {default.silos}" for count in counts]
        first = [f"[{file.stem}](ten-seeds/{file.stem}.md)", TITLES[metric], local]
        return [*first, *gains, *of_silos, ROWS["worst silo"](metric, default)]

    yield from TEN_SEEDS_TABLE
    yield from _rows(HERE / "ten-seeds", "*.json", cells)
    silos, held = sum(one.silos for one in defaults), sum(one.loss_not_shown for one in defaults)
    yield ""
    yield (
        f"The mean gain of `{DEFAULT}` excludes 0 from below on {sum(one.mean.ci95[0] > 0 for one in defaults)} of "
        f"{len(defaults)} sets and from above on {sum(one.mean.ci95[1] < 0 for one in defaults)}; {held} of {silos} silos are not "
        f"below local beyond the noise."
    )


FIXED_HEADS = (
    "## Heads that keep their initial weights in the rounds",
    "",
    '`fedtl` trains each silo\'s head with the body. With `method.head = "fixed"` the head keeps its initial weights, which are equal at '
    "all silos, until the silo tunes its model. Mean gain over local:",
    "",
    "| set | metric | fedtl | fedtl with fixed heads |",
    "|---" * 4 + "|",
)


def fixed_heads() -> Iterator[str]:
    """Yield the table of both, for each set where both were measured: transfer/fixed-head-NAME and NAME, with the same seeds."""

    def cells(file: Path) -> list[str]:
        name = file.stem.removeprefix("fixed-head-")
        found = [json.loads(one.read_text()) for one in (HERE / f"{name}.json", file)]
        metric, overall = found[0]["metric"], [from_plain_overall(one["overall"])["fedtl"] for one in found]
        gains = [format_difference(metric, one.mean.mean, one.mean.ci95) for one in overall]
        links = f"[{gains[0]}]({name}.md)", f"[{gains[1]}](../transfer/{file.stem}.md)"
        return [name, TITLES[metric], *links]

    yield from FIXED_HEADS
    yield from _rows(HERE.parent / "transfer", "fixed-head-*.json", cells)


TRANSFER = (
    "# What transfers between silos? All measured experiments",
    "",
    "Mean gain over training alone, with the 95 % interval; every method is tuned at home and averaged with the silo's own model alike. "
    "Gains of silos without labels, whose yardstick is `silobn`, and figures of a second domain stand on the experiment's page.",
    "",
    "| experiment | question | seeds | metric | mean gain over local |",
    "|---" * 5 + "|",
)


MEMBER = "minus as a member, interval over silos"
OTHER_MEASURES = (
    "## Other measures",
    "",
    "| experiment | question | what came of it |",
    "|---" * 3 + "|",
)


def transfer_overview() -> str:
    """Return a page with one line for each measured experiment of the folder transfer."""
    lines, others = list(TRANSFER), list(OTHER_MEASURES)
    for file in sorted((HERE.parent / "transfer").glob("*.json")):
        found = json.loads(file.read_text())
        what = [f"[{file.stem}]({file.stem}.md)", _question(file.with_suffix(".toml"))]
        if "overall" not in found:
            others.append("| " + " | ".join([*what, _said(file.with_suffix(".md"))]) + " |")
            continue
        gains = [
            f"{name} {format_difference(found['metric'], one.mean.mean, one.mean.ci95)}"
            for name, one in from_plain_overall(found["overall"]).items()
        ]
        cells = [*what, str(len(found["seeds"])), TITLES[found["metric"]]]
        lines.append("| " + " | ".join([*cells, "; ".join(gains)]) + " |")
    return "\n".join([*lines, "", *others, ""])


def _said(page: Path) -> str:
    """
    Return what a page of another measure says in its one line that begins so: the stages to share, how far each way to a
    model of a new silo lies below the silo as a member, or what wrong labels cost.
    """
    lines = page.read_text().splitlines()
    if advice := next((line for line in lines if line.startswith("Share ")), None):
        return advice
    begins = ("| cost in points", "| mean of the other ")
    what = "Points of accuracy that they cost, mean of the other silos"
    if not any(line.startswith(begins[0]) for line in lines):
        begins, what = ("| accuracy", f"| {MEMBER} "), f"Accuracy with 20 labels a class {MEMBER}"
    titles, row = (next(line for line in lines if line.startswith(begin)) for begin in begins)
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in (titles, row)]
    found = [f"{name} {value}" for name, value in zip(cells[0][1:], cells[1][1:], strict=True) if value]
    older = next(
        (f" {line}" for line in lines if line.startswith("The last two columns were measured before")), ""
    )
    return f"{what}: {'; '.join(found)}.{older}"


def _question(experiment: Path) -> str:
    """Return the first sentence of the comment at the top of an experiment; of a page of two experiments, its title."""
    if not experiment.is_file():
        return experiment.with_suffix(".md").read_text().splitlines()[0].removeprefix("# ")
    comment = takewhile(lambda line: line.startswith("#"), experiment.read_text().splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=[?.]) ", text, maxsplit=1)[0]


def from_plain_overall(found: Mapping[str, Any]) -> dict[str, Overall]:
    return {name: from_plain(Overall, one) for name, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--ten-seeds", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.names:
            written, changes = (f"results/ten-seeds/{name}", TEN_SEEDS) if given.ten_seeds else (name, ())
            folder = (given.keep or Path(temporary)).absolute() / written
            folder.parent.mkdir(parents=True, exist_ok=True)
            write(written, folder, run(name, folder, changes))
            (HERE / "README.md").write_text(overview())
            (HERE.parent / "transfer" / "README.md").write_text(transfer_overview())


if __name__ == "__main__":
    main()
