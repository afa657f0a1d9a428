"""
What wrong labels at one silo cost the others: wrong-labels.toml for ten seeds, with and without them, on the same rows.

Writes the page of the comparison with wrong labels (wrong-labels.md, as results/make.py does), and the differences
(wrong-labels-cost.md, .json and .svg). The model of a silo that trains alone does not change at the others, so their "local" is 0
unless something is wrong.

Run: python simulations/transfer/wrong_labels.py [--keep FOLDER]. A comparison that FOLDER already holds finished is not run again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedtl._util.records import from_plain
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.doubtful_labels import IN_DOUBT
from fedtl.experiment.episodes import interval
from fedtl.report.figures import format_difference
from fedtl.report.plots import MARKERS, PALETTE, draw_legend, label_axes, label_rows, new_figure, to_svg
from fedtl.results.comparison import Comparison

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "results"))
import set_pages  # noqa: E402
from committed import DEFAULT  # noqa: E402
from measured_runs import Origin, run  # noqa: E402

NAME = "transfer/wrong-labels"
SEEDS = f"compare.seeds={list(range(10))}"
RIGHT = "data.wrong_labels={}"
METRIC = "accuracy"
BAR = 0.01  # that wrong labels at one silo may cost the others, on average
OTHERS = "mean of the other {count} silos"


@dataclass(frozen=True)
class Costs:
    """By method and silo, of each seed: the accuracy with right labels minus that with wrong ones. ``silo``: the one that has them."""

    silo: str
    by_method: Mapping[str, Mapping[str, tuple[float, ...]]]

    @classmethod
    def of(cls, right: Comparison, wrong: Comparison, silo: str) -> "Costs":
        by_method = {
            method: {
                name: tuple(np.subtract(right.methods[method][name][METRIC].seeds, score[METRIC].seeds))
                for name, score in silos.items()
            }
            for method, silos in wrong.methods.items()
            if method != "constant"
        }
        return cls(silo, by_method)

    @property
    def others(self) -> list[str]:
        return [name for name in next(iter(self.by_method.values())) if name != self.silo]

    def mean_of_others(self, method: str) -> list[float]:
        """The mean over the other silos, of each seed."""
        return list(np.mean([self.by_method[method][name] for name in self.others], axis=0))

    def rows(self) -> Iterator[tuple[str, list[Sequence[float]]]]:
        """Yield the title of a row and the values of its methods."""
        for name in self.others:
            yield name, [silos[name] for silos in self.by_method.values()]
        yield OTHERS.format(count=len(self.others)), [self.mean_of_others(name) for name in self.by_method]
        yield f"{self.silo}, which has them", [silos[self.silo] for silos in self.by_method.values()]


def table(costs: Costs, named: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Return the lines of the table. ``named``: the silos that the result of each run names, "with" and "without" wrong labels."""
    lines = ["| cost in points of accuracy | " + " | ".join(costs.by_method) + " |"]
    lines.append("|---" * (len(costs.by_method) + 1) + "|")
    for title, values in costs.rows():
        cells = [format_difference(METRIC, float(np.mean(one)), interval(one)) for one in values]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    verdicts = [_verdict(costs.mean_of_others(name)) for name in costs.by_method]
    lines.append(f"| at most {100 * BAR:g} point for the others? | " + " | ".join(verdicts) + " |")
    alone = sum(names == [costs.silo] for names in named["with"])
    some = sum(bool(names) for names in named["without"])
    return [
        *lines,
        "",
        f"With wrong labels, {alone} of {len(named['with'])} results of {DEFAULT} name {costs.silo} and no other silo; without, "
        f"{some} of {len(named['without'])} name a silo.",
    ]


def _verdict(values: Sequence[float]) -> str:
    ends = interval(values)
    if ends is None or ends[0] == ends[1]:
        return "yes" if np.mean(values) <= BAR else "no"
    return "yes" if ends[1] <= BAR else "no" if ends[0] > BAR else "not shown"


def figure(costs: Costs) -> str:
    """Return a dot with its interval for each method and row of the table."""
    rows = list(costs.rows())
    drawing, axes = new_figure(0.45 * len(rows) + 1.4)
    keys = {}
    for at, method in enumerate(costs.by_method):
        shift, look = 0.22 * (at - (len(costs.by_method) - 1) / 2), {"color": PALETTE[at]}
        for row, (_, values) in enumerate(rows):
            if ends := interval(values[at]):
                axes.plot([100 * end for end in ends], [row + shift] * 2, lw=1.3, **look)
            (keys[method],) = axes.plot(100 * np.mean(values[at]), row + shift, MARKERS[at], ms=5, **look)
    axes.axvline(100 * BAR, color="#999999", lw=0.8, ls="--")
    label_rows(axes, [title for title, _ in rows])
    label_axes(axes, "What wrong labels at one silo cost", "points of test accuracy with 95 % interval", "")
    draw_legend(axes, keys)
    return to_svg(drawing, "wrong-labels")


def named(folder: Path, method: str, seed: int) -> list[str]:
    """Return the silos that the result of a run names for labels in doubt."""
    notes = json.loads((folder / "runs" / f"{method}-seed{seed}" / "result.json").read_text())["notes"]
    said = [note for note in notes if note.startswith(IN_DOUBT)]
    return (
        [one.split()[0] for one in said[0].removeprefix(IN_DOUBT).split(" (")[0].split(",")] if said else []
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        origins = {
            "with": run(NAME, folder / "with", [SEEDS]),
            "without": run(NAME, folder / "without", [SEEDS, RIGHT]),
        }
        found = {
            name: from_plain(Comparison, json.loads((folder / name / "comparison.json").read_text()))
            for name in origins
        }
        (silo,) = load_experiment(str(HERE.parent / f"{NAME}.toml")).data.wrong_labels
        costs, seeds = Costs.of(found["without"], found["with"], silo), found["with"].seeds
        names = {name: [named(folder / name, DEFAULT, seed) for seed in seeds] for name in origins}
        set_pages.write(NAME, folder / "with", origins["with"])
        write(costs, names, list(origins.values()))


def write(costs: Costs, named: Mapping[str, Sequence[Sequence[str]]], origins: Sequence[Origin]) -> None:
    """Write the page of the differences, its numbers and its figure."""
    lines = table(costs, named)
    ran = [
        f"- `{one.command}` at commit {one.commit}, on {one.machine}: {one.seconds} s ({one.cpu_seconds} s of CPU time)."
        for one in origins
    ]
    about = (
        f"Accuracy on the same test rows with right labels minus that with wrong ones, in points; mean of {len(named['with'])} seeds with its 95 % "
        "interval. Below 0: better with wrong labels."
    )
    page = HERE / "wrong-labels-cost.md"
    text = [
        "# What wrong labels at one silo cost the others",
        "",
        *ran,
        "",
        about,
        "",
        *lines,
        "",
        "![cost](wrong-labels-cost.svg)",
        "",
    ]
    page.write_text("\n".join(text))
    page.with_suffix(".svg").write_text(figure(costs))
    content = {
        "commands": [one.command for one in origins],
        "commits": [one.commit for one in origins],
        "silo": costs.silo,
        "costs": costs.by_method,
        "silos named": dict(named),
    }
    page.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
