"""
Leave one silo out: what a silo that never trained reaches with few labels, beside what it reaches as a member.

For each experiment, one run with all silos gives the members' accuracy: with all their training rows, tuning at home and the
choice of a mix. For each silo, a run without it gives the backbone, and ``fedtl onboard`` the rest. Writes NAME.md,
NAME.json and NAME.svg beside this file.

Run: python simulations/transfer/onboard.py [onboard-digits6 onboard-spoken-digits] [--method fedtl] [--seed 0]
[--episodes 30] [--keep FOLDER] [--draw]. Runs that FOLDER already holds finished are not repeated.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedtl._util.counted import counted
from fedtl._util.records import from_plain, to_plain
from fedtl.data.prepare import silo_names
from fedtl.experiment.backbone import read_backbone
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.episodes import interval
from fedtl.experiment.jobs import worker_pool
from fedtl.experiment.new_silo import new_silo_experiment, read_new_silo
from fedtl.experiment.onboard import ALONE, CHOSEN, MIXED, TUNED, Episodes, NewSilo, onboard
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.bounds import bounded
from fedtl.report.onboard_figures import HEAD_NAMES, METRIC
from fedtl.report.plots import INK, MARKERS, PALETTE, draw_legend, label_axes, label_rows, new_figure, to_svg
from fedtl.results.onboard import OnboardResult, ShotsResult
from fedtl.training import threads

HERE = Path(__file__).parent
NAMES = ("onboard-digits6", "onboard-spoken-digits")
SHOTS = (1, 5, 20)
BAR = 0.03  # that a new silo may lie below itself as a member
ROUNDS_ONLY = [
    "method.tune.epochs=0",
    'method.choose.candidates=["tuned"]',
]  # a backbone needs no finished members


@dataclass(frozen=True)
class Plan:
    """How one experiment is run. ``method``: of the backbone; members are compared by the method fedtl, with its default."""

    name: str
    method: str
    seed: int
    episodes: int
    folder: Path

    @property
    def file(self) -> str:
        return str(HERE / f"{self.name}.toml")

    def settings(self, *more: str) -> list[str]:
        return [f"seed={self.seed}", "engine.name=serial", "engine.threads=1", *more]


def members(plan: Plan) -> dict[str, float]:
    """Return the test accuracy of each silo where all train together."""
    result = _run(plan.folder / "members", plan, plan.settings())
    return {name: silo.measured.figures["accuracy"] for name, silo in result.silos.items()}


def newcomer(plan: Plan, silo: str) -> OnboardResult:
    """Train without the silo, and onboard it."""
    threads.set_threads(1)
    file = plan.folder / f"without-{silo}" / "onboard.json"
    if not file.is_file():
        settings = plan.settings(f'data.late=["{silo}"]', f"method.name={plan.method}", *ROUNDS_ONLY)
        _run(file.parent, plan, settings)
        backbone = read_backbone(file.parent)
        experiment = new_silo_experiment(backbone, str(file.parent / "experiment.toml"))
        new = NewSilo.of(backbone, silo, read_new_silo(backbone, experiment, silo))
        result = onboard(new, Episodes(SHOTS, plan.episodes, 2, plan.seed), lambda *_: None)
        file.write_text(json.dumps(to_plain(result)))
    return from_plain(OnboardResult, json.loads(file.read_text()))


def _run(path: Path, plan: Plan, settings: Sequence[str]):
    experiment = load_experiment(plan.file, settings)
    done = (path / "experiment.toml").is_file()
    folder = RunFolder.open(path) if done else RunFolder.create(path, experiment)
    return run(experiment, folder)


def gaps(
    together: Mapping[str, float], results: Mapping[str, OnboardResult], head: str, at: int = -1
) -> list[float]:
    """Return by silo the accuracy of a head with the most labels minus that of the silo as a member."""
    return [result.shots[at].heads[head].mean - together[name] for name, result in results.items()]


def lines(together: Mapping[str, float], results: Mapping[str, OnboardResult]) -> list[str]:
    """Return the table: a row for each silo and for their mean, with the most labels a class."""
    heads = [name for name in HEAD_NAMES if all(name in one.shots[-1].heads for one in results.values())]
    text = ["| accuracy (%) | as a member | " + " | ".join(HEAD_NAMES[name] for name in heads) + " |"]
    text.append("|---" * (len(heads) + 2) + "|")
    for name, result in results.items():
        scores = [result.shots[-1].heads[head] for head in heads]
        cells = [f"{100 * one.mean:.1f}{_ends(one.ci95)}" for one in scores]
        text.append(f"| {name} | {100 * together[name]:.1f} | " + " | ".join(cells) + " |")
    means = [np.mean([one.shots[-1].heads[head].mean for one in results.values()]) for head in heads]
    text.append(
        f"| mean of {len(results)} silos | {100 * np.mean(list(together.values())):.1f} | "
        + " | ".join(f"{100 * mean:.1f}" for mean in means)
        + " |"
    )
    differences = [gaps(together, results, head) for head in heads]
    cells = [f"{100 * np.mean(gap):+.1f}{_ends(interval(gap), '+')}" for gap in differences]
    text.append("| minus as a member, interval over silos | | " + " | ".join(cells) + " |")
    within = [sum(gap >= -BAR for gap in one) for one in differences]
    text.append(
        "| silos within 3 points of themselves as members | | "
        + " | ".join(f"{count} of {len(results)}" for count in within)
        + " |"
    )
    return text


def _ends(ends: tuple[float, ...] | None, sign: str = "") -> str:
    return f" [{100 * ends[0]:{sign}.1f}, {100 * ends[1]:{sign}.1f}]" if ends else ""


def figure(together: Mapping[str, float], results: Mapping[str, Sequence[ShotsResult]]) -> str:
    """Return a dot for each number of labels, for the models that are trained, and a line for the silo as a member."""
    drawing, axes = new_figure(0.55 * len(results) + 1.4)
    keys = {}
    for at, (name, shots) in enumerate(results.items()):
        (keys["as a member, all rows"],) = axes.plot(
            [100 * together[name]] * 2, [at - 0.35, at + 0.35], color=INK, lw=3
        )
        dots = [(f"{counted(part.shots, 'label')} a class", part.heads[CHOSEN]) for part in shots]
        most = shots[-1]
        dots += [
            (f"{most.shots} labels, {HEAD_NAMES[key].split(',')[0]}", most.heads[key])
            for key in (TUNED, ALONE, MIXED)
            if key in most.heads
        ]
        for number, (label, score) in enumerate(dots):
            place = at - 0.3 + 0.12 * number
            colour = PALETTE[number]
            if score.ci95:
                axes.plot(
                    [100 * end for end in bounded(METRIC, score.ci95)], [place] * 2, color=colour, lw=1.2
                )
            (keys[label],) = axes.plot(100 * score.mean, place, MARKERS[number], color=colour, ms=5)
    label_rows(axes, list(results))
    label_axes(axes, "Each silo, left out of training in turn", "test accuracy (%)", "")
    draw_legend(axes, keys)
    return to_svg(drawing, "onboard")


def write(plan: Plan, together: Mapping[str, float], results: Mapping[str, OnboardResult]) -> None:
    """Write the table, its numbers and the figure."""
    command = (
        f"python simulations/transfer/onboard.py {plan.name} --method {plan.method} --seed {plan.seed} "
        f"--episodes {plan.episodes}"
    )
    table = lines(together, results)
    about = (
        f"`{command}`. Columns: the silo as a member of all six (method fedtl, with tuning and the choice of a mix), and left out "
        f"of training (method {plan.method}), with {SHOTS[-1]} labels a class; {plan.episodes} episodes, 95 % intervals over "
        "episodes; the two models that are trained on the labels, and their mean: 2 episodes."
    )
    (HERE / f"{plan.name}.md").write_text(
        "\n".join([f"# {plan.name}", "", about, "", *table, "", f"![{plan.name}]({plan.name}.svg)", ""])
    )
    (HERE / f"{plan.name}.svg").write_text(
        figure(together, {silo: one.shots for silo, one in results.items()})
    )
    content = {
        "command": command,
        "members": together,
        "shots": {name: to_plain(one.shots) for name, one in results.items()},
    }
    (HERE / f"{plan.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(table))


def draw(name: str) -> None:
    """Write NAME.svg anew, from the numbers of NAME.json."""
    numbers = json.loads((HERE / f"{name}.json").read_text())
    shots = {
        silo: [from_plain(ShotsResult, one) for one in parts] for silo, parts in numbers["shots"].items()
    }
    (HERE / f"{name}.svg").write_text(figure(numbers["members"], shots))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--method", default="fedtl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--draw", action="store_true", help="only the figures, from the JSON files")
    given = parser.parse_args()
    if given.draw:
        for name in given.names:
            draw(name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.names:
            folder = (given.keep or Path(temporary)).absolute() / f"{name}-{given.method}-{given.seed}"
            plan = Plan(name, given.method, given.seed, given.episodes, folder)
            silos = silo_names(load_experiment(plan.file).data)
            with worker_pool(given.workers, threads=1) as pool:
                together = pool.submit(members, plan)
                results = dict(zip(silos, pool.map(partial(newcomer, plan), silos), strict=True))
                write(plan, together.result(), results)


if __name__ == "__main__":
    main()
