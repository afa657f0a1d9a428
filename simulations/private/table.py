"""
Measure the accuracy that record-level privacy costs: one table per data set, over epsilons, seeds and two learning rates.

Rows of the table: runs without privacy; baselines without any cost, because nothing is trained together (public backbone, head or
everything trained at home); what private training allows; and exact statistics, which fedtl refuses and which are forced
here to show what they would gain. Each private row is measured twice: as released, and as the silo uses it, tuned at home
and mixed with a model that it trained alone. As in the work that DP-AdaBN is compared with, a row shows the better of the
learning rates by its mean on test rows; this choice is not charged.

Run: python table.py [scanner] [digits] [digits6] [--workers 2] [--epsilons 1,8] [--seeds 0,1] [--rates 0.05]. Writes <name>.json to
its folder and prints the table.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scipy import stats

from fedtl.experiment.jobs import worker_pool

HERE = Path(__file__).parent
EPSILONS = 1.0, 3.0, 8.0
SEEDS = {"scanner": range(10), "digits": range(3), "digits6": range(3)}
RATES = {"scanner": (0.03, 0.1), "digits": (0.02, 0.05), "digits6": (0.1, 0.4)}
GROUPNORM, AFTER = "model.name=convnet_gn", "privacy.statistics=local-after"
FILM = "train.roles=['norm', 'head']"
HEAD_ONLY = ["method.name=probe", "method.tune.epochs=0"]
OPEN = {
    "not private, BatchNorm": [],
    "not private, GroupNorm": [GROUPNORM],
    "alone, BatchNorm: public backbone, all of it trained at home": ["method.name=local"],
    "alone, GroupNorm: public backbone, all of it trained at home": ["method.name=local", GROUPNORM],
    "alone, BatchNorm: public backbone, exact statistics and head at home": HEAD_ONLY,
}
PRIVATE = {
    "GroupNorm": [GROUPNORM, "privacy.statistics=public"],
    "GroupNorm, norms and head only": [GROUPNORM, "privacy.statistics=public", FILM],
    "GroupNorm, MR-MTL": [GROUPNORM, "privacy.statistics=public", "method.name=mrmtl", "method.mu=1.0"],
    "frozen public statistics": [AFTER],
    "frozen public statistics, norms and head only": [AFTER, FILM],
    "ridge head, one release": [AFTER, "method.name=ridge", "method.clip=1.0"],
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


def runs(name: str, asked: argparse.Namespace) -> list[One]:
    """All runs of a table, seed by seed."""
    rates = asked.rates or RATES[name]
    found: list[One] = []
    for seed in asked.seeds or SEEDS[name]:
        found += [One(name, row, seed, None, None) for row in OPEN]
        found += [
            One(name, row, seed, epsilon, rate)
            for epsilon in asked.epsilons
            for row in PRIVATE
            for rate in (rates[:1] if "one release" in row else rates)
        ]
    return [one for one in found if not any(word in one.row for word in asked.skip)]


def accuracy(one: One, own: Path, more: Sequence[str] = ()) -> dict[str, Any]:
    """
    Run one experiment and return its test accuracy: the mean over silos, and that of each silo. ``own``: a folder with the
    models that silos trained alone, which are the same in all private rows of a model. ``more``: settings that the row's own
    replace.
    """

    from fedtl.experiment import privacy_plan as planning
    from fedtl.experiment.config.load import load_experiment
    from fedtl.experiment.own_models import stored_own_models
    from fedtl.experiment.run import Given, run
    from fedtl.experiment.run_folder import RunFolder
    from fedtl.privacy import dp_adabn
    from fedtl.training.threads import set_threads

    set_threads(1)
    row = PRIVATE.get(one.row, OPEN.get(one.row, []))
    by_key = {setting.partition("=")[0]: setting for setting in (*more, *row)}
    sets = [*by_key.values(), f"seed={one.seed}", "engine.name=serial"]
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
            given = Given(own=stored_own_models(own / one.name, experiment, "cpu"))
            result = run(experiment, RunFolder.create(Path(folder) / "run", experiment), given=given)
    finally:
        dp_adabn.release_statistics, planning.STATISTICS_SHARE = originals
    silos = {name: silo.measured.figures["accuracy"] for name, silo in result.silos.items()}
    received = [
        silo.received.figures["accuracy"] for silo in result.silos.values() if silo.received is not None
    ]
    return {
        **asdict(one),
        "accuracy": result.mean["accuracy"],
        "received": statistics.mean(received) if received else None,
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
            key = "none" if epsilon is None else f"{epsilon:g}"
            received = [one["received"] for one in own if one["rate"] == rate and one["received"] is not None]
            cell = {**_interval(by_rate[rate]), "lr": rate}
            table.setdefault(row, {})[key] = cell | ({"received": _interval(received)} if received else {})
    return table


def _interval(values: list[float]) -> dict[str, Any]:
    """The mean and half of its 95 % t interval; None for one value."""
    half = None
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": statistics.mean(values), "half": half, "seeds": len(values)}


def markdown(name: str, table: dict[str, dict[str, Any]]) -> str:
    """Each cell: before anything is done at home, then as the silo uses it."""
    lines = [
        f"| {name} | not private | " + " | ".join(f"epsilon {e:g}" for e in EPSILONS) + " |",
        "|---" * (len(EPSILONS) + 2) + "|",
    ]
    for row, cells in table.items():
        shown = [cells.get(key) for key in ("none", *(f"{e:g}" for e in EPSILONS))]
        texts = [
            " / ".join(map(_text, [cell["received"], cell] if "received" in cell else [cell])) if cell else ""
            for cell in shown
        ]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _text(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.1f}" + ("" if cell["half"] is None else f" ± {100 * cell['half']:.1f}")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["scanner", "digits"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epsilons", type=_numbers, default=EPSILONS)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--rates", type=_numbers)
    parser.add_argument(
        "--skip", nargs="*", default=[], help="leave out rows whose name has one of these words"
    )
    asked = parser.parse_args()
    for name in asked.names:
        clock, all_ = time.perf_counter(), runs(name, asked)
        with tempfile.TemporaryDirectory() as own, worker_pool(asked.workers, threads=1) as pool:
            found = []
            for done, one in enumerate(pool.map(partial(accuracy, own=Path(own)), all_), 1):
                found.append(one)
                table, seconds = summary(found), round(time.perf_counter() - clock, 1)
                content = {"table": table, "runs": found, "seconds": seconds}
                (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
                print(f"{name}: {done} of {len(all_)} runs", end="\r", flush=True)
        print(markdown(name, table), "\n")


if __name__ == "__main__":
    main()
