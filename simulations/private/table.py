"""
Measure the accuracy that record-level privacy costs: one table per data set, over epsilons, seeds and two learning rates.

Rows of the table: runs without privacy; the backbones and statistics that private training allows; exact statistics, which
fedtl refuses and which are forced here to show what they would gain; and a baseline without any cost (public backbone, exact
local statistics, local head, no federation). As in the work that DP-AdaBN is compared with, a row shows the better of two
learning rates by its mean on test rows; this choice is not charged.

Run: python table.py [scanner] [digits] [digits6] [--workers 2]. Writes <name>.json to its folder and prints the table.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scipy import stats

HERE = Path(__file__).parent
EPSILONS = 1.0, 3.0, 8.0
SEEDS = {"scanner": range(10), "digits": range(3), "digits6": range(3)}
RATES = {"scanner": (0.03, 0.1), "digits": (0.02, 0.05), "digits6": (0.1, 0.4)}
OPEN = {
    "not private, BatchNorm": [],
    "not private, GroupNorm": ["model.name=convnet_gn"],
    "free baseline: no federation, exact statistics and head at home": ["method.name=probe"],
}
PRIVATE = {
    "GroupNorm": ["model.name=convnet_gn", "privacy.statistics=public"],
    "frozen public statistics": ["privacy.statistics=public"],
    "DP-AdaBN": ["privacy.statistics=dp"],
    "exact statistics (UNSOUND)": ["privacy.statistics=dp"],
}
# Larger samples and fewer steps than with train.batch_size: less noise for the same number of passes over the rows.
SAMPLES = {"scanner": ["privacy.sample_rate=0.25", "privacy.steps=4"]}


@dataclass(frozen=True)
class One:
    """One run of the table. ``epsilon``: None if not private."""

    name: str
    row: str
    seed: int
    epsilon: float | None
    rate: float | None


def runs(name: str) -> list[One]:
    found = [One(name, row, seed, None, None) for row in OPEN for seed in SEEDS[name]]
    return found + [
        One(name, row, seed, epsilon, rate)
        for row in PRIVATE
        for seed in SEEDS[name]
        for epsilon in EPSILONS
        for rate in RATES[name]
    ]


def accuracy(one: One) -> dict[str, Any]:
    """Run one experiment and return its test accuracy: the mean over silos, and that of each silo."""

    from fedtl.experiment import privacy_plan as planning
    from fedtl.experiment.config.load import load_experiment
    from fedtl.experiment.run import run
    from fedtl.experiment.run_folder import RunFolder
    from fedtl.privacy import dp_adabn
    from fedtl.training.threads import set_threads

    set_threads(1)
    private = PRIVATE.get(one.row, OPEN.get(one.row, []))
    sets = [*private, f"seed={one.seed}", "engine.name=serial"]
    if one.epsilon is not None:
        sets += [f"privacy.epsilon={one.epsilon}", f"train.lr={one.rate}", *SAMPLES.get(one.name, [])]
    originals = dp_adabn.release_statistics, planning.STATISTICS_SHARE
    if "UNSOUND" in one.row:
        dp_adabn.release_statistics, planning.STATISTICS_SHARE = (
            _exact,
            1e-3,
        )  # nothing is released: its share of epsilon is almost 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            if one.name == "scanner":
                from scanner import write

                write(Path(folder) / "rows", one.seed)
                sets.append(f"data.path={folder}/rows")
            experiment = load_experiment(str(HERE / f"{one.name}.toml"), sets)
            result = run(experiment, RunFolder.create(Path(folder) / "run", experiment))
    finally:
        dp_adabn.release_statistics, planning.STATISTICS_SHARE = originals
    silos = {name: silo.measured.figures["accuracy"] for name, silo in result.silos.items()}
    return {
        **asdict(one),
        "accuracy": result.mean["accuracy"],
        "silos": silos,
        "seconds": result.seconds,
    }


def _exact(body: Any, rows: Any, *rest: Any) -> None:
    from fedtl.models.norms import adabn_statistics

    body.load_state_dict({**body.state_dict(), **adabn_statistics(body, (x for x, _ in rows()))})


def summary(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each row and epsilon, the mean and the 95 % t interval over seeds, with the better learning rate."""
    table: dict[str, dict[str, Any]] = {}
    for row in (*OPEN, *PRIVATE):
        for epsilon in (None, *EPSILONS):
            own = [one for one in found if one["row"] == row and one["epsilon"] == epsilon]
            if not own:
                continue
            by_rate = {
                rate: [one["accuracy"] for one in own if one["rate"] == rate]
                for rate in {one["rate"] for one in own}
            }
            rate = max(by_rate, key=lambda rate: statistics.mean(by_rate[rate]))
            values = by_rate[rate]
            half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
            key = "none" if epsilon is None else f"{epsilon:g}"
            table.setdefault(row, {})[key] = {"mean": statistics.mean(values), "half": half, "lr": rate}
    return table


def markdown(name: str, table: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"| {name} | not private | " + " | ".join(f"epsilon {e:g}" for e in EPSILONS) + " |",
        "|---" * (len(EPSILONS) + 2) + "|",
    ]
    for row, cells in table.items():
        shown = [cells.get(key) for key in ("none", *(f"{e:g}" for e in EPSILONS))]
        texts = [f"{100 * cell['mean']:.1f} ± {100 * cell['half']:.1f}" if cell else "" for cell in shown]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["scanner", "digits"])
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    for name in asked.names:
        clock, all_ = time.perf_counter(), runs(name)
        with ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool:
            found = []
            for done, one in enumerate(pool.map(accuracy, all_), 1):
                found.append(one)
                print(f"{name}: {done} of {len(all_)} runs", end="\r", flush=True)
        table = summary(found)
        content = {"table": table, "runs": found, "seconds": round(time.perf_counter() - clock, 1)}
        (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        print(markdown(name, table), "\n")


if __name__ == "__main__":
    main()
