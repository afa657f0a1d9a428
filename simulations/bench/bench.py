"""
Measure how fast fedtl is: a table of ratios between contenders in one run, and a JSON file with all measurements.

    .venv/bin/python simulations/bench/bench.py
    .venv/bin/python simulations/bench/bench.py --only convnet --pfl-python ../pfl-venv/bin/python
    .venv/bin/python simulations/bench/bench.py --only mlp --nvflare-python ../nvflare-venv/bin/python

Every contender has the same generated data, model, steps and evaluation, and one torch thread in each process. It is created
once and kept between rounds; its first round is not counted. The floor keeps freed memory, as fedtl does.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import bars
import floor
import loads
import machine
import private_step
from bench_tables import report
from crowding import crowding
from measure import HERE, Block, BlockFailed, Contender, Times, run_block, side_by_side
from numpy_linear import NumpyLinear
from startup import measure_startup
from with_fedtl import Fedtl, unstackable

from fedtl.training.threads import set_threads

SILOS, STEPS = "silos", "steps"
OTHER_PARTS = (STEPS, bars.START, SILOS)
TURNS = 3
MOST_SILOS = 100  # that other frameworks are measured with


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def insiders(load: loads.Load, workers: Sequence[int]) -> Iterator[dict[str, Contender]]:
    """Create the contenders that take rounds in turn."""
    made: dict[str, Contender] = {
        bars.FLOOR: floor.Floor(load, floor.FAST),
        bars.NAIVE: floor.Floor(load, floor.NAIVE),
        bars.CEILING: floor.Floors(load, floor.FAST, workers[-1]),
    }
    if load.model == "linear":
        made[bars.NUMPY] = NumpyLinear(load)
    try:
        for count in workers:
            say(f"{load.name}: starting {bars.fedtl(count)}")
            made[bars.fedtl(count)] = Fedtl(load, count)
        if not unstackable(load):
            made[bars.STACKED] = Fedtl(load, 1, bars.STACK)
            # A stack trains in one process, so every worker has one.
            stack = min(bars.STACK, -(-load.silos // workers[-1]))
            made[bars.stacked(workers[-1])] = Fedtl(load, workers[-1], stack)
        yield made
    finally:
        for contender in made.values():
            contender.close()


def outsiders(given: argparse.Namespace, load: str) -> tuple[list[Block], dict[str, str]]:
    """Return the blocks of other frameworks, and why one of them is skipped."""
    blocks: list[Block] = []
    skipped: dict[str, str] = {}
    if loads.LOADS[load].silos > MOST_SILOS:
        others = (bars.FLOWER, bars.PFL, bars.NVFLARE)
        return [], dict.fromkeys(others, f"not measured with more than {MOST_SILOS} silos")
    common = [load, "--rounds", str(given.repeats), *(["--quick"] if given.quick else [])]
    if given.no_flower or not (find_spec("flwr") and find_spec("ray")):
        skipped[bars.FLOWER] = (
            "--no-flower" if given.no_flower else "not installed: pip install 'fedtl[bench]'"
        )
    else:
        script = [sys.executable, str(HERE / "with_flower.py"), *common, "--at-once", str(given.workers)]
        blocks += [Block(bars.FLOWER, script), Block(bars.FLOWER_BEST, [*script, "--best"])]
    if not given.pfl_python:
        skipped[bars.PFL] = "no --pfl-python given"
    else:
        script = [str(HERE / "pfl_round.py"), *common]
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(given.workers)]
        blocks.append(Block(bars.PFL, [given.pfl_python, *script]))
        blocks.append(Block(bars.PFL_BEST, [given.pfl_python, *several, *script, "--best"]))
    if not given.nvflare_python:
        skipped[bars.NVFLARE] = "no --nvflare-python given"
    else:
        script = [str(HERE / "with_nvflare.py"), *common, "--at-once", str(given.workers)]
        blocks.append(Block(bars.NVFLARE, [given.nvflare_python, *script]))
    return blocks, skipped


def _elsewhere(given: argparse.Namespace) -> dict[str, str]:
    """Return the interpreters of packages that do not install beside fedtl."""
    pythons = {"pfl": given.pfl_python, "nvflare": given.nvflare_python}
    return {package: python for package, python in pythons.items() if python}


def measure_load(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Measure all contenders on one load."""
    load = loads.by_name(name, given.quick)
    blocks, skipped = outsiders(given, name)
    workers = sorted({1, 2, given.workers})
    with insiders(load, workers) as made:
        startups = [contender.startup for contender in made.values() if isinstance(contender, Fedtl)]
        times, failed = side_by_side(
            made, blocks, given.repeats, bars.FLOOR, lambda text: say(f"{name}: {text}")
        )
    return {
        "about": loads.ABOUT[name],
        "load": asdict(load),
        "contenders": {who: _figures(its) for who, its in times.items()},
        "skipped": skipped | failed | ({bars.STACKED: reason} if (reason := unstackable(load)) else {}),
        "startup_seconds": max(startups),
        "bars": _plain(bars.verdicts(name, times, given.workers)),
    }


def measure_silos(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure many silos of the tiny MLP, each number of silos in its own process, all numbers in turn, TURNS times."""
    rows = []
    counts, turns = ((4,), 1) if given.quick else ((10, 100, 1000), TURNS)
    for workers, stack in ((1, 1), (given.workers, 1), (1, bars.STACK)):
        who = bars.STACKED if stack > 1 else bars.fedtl(workers)
        taken: dict[int, list[Times]] = {count: [] for count in counts}
        for turn, count in ((turn, count) for turn in range(turns) for count in counts):
            say(f"{count} silos, {who}, turn {turn + 1}")
            rounds = 2 if given.quick else max(3, min(20, 500 // count))
            options = [str(count), "--workers", str(workers), "--stack", str(stack), "--rounds", str(rounds)]
            try:
                taken[count].append(run_block([sys.executable, str(HERE / "crowd.py"), *options]))
            except BlockFailed as error:
                rows.append({"silos": count, "who": who, "failed": str(error)})
        rows += [_crowd_row(count, who, its) for count, its in taken.items() if len(its) == turns]
    return rows


def _crowd_row(silos: int, who: str, turns: Sequence[Times]) -> dict[str, Any]:
    """The median time over the turns, and the largest value of each other figure."""
    each = [1000 * times.median / silos for times in turns]
    return {
        "silos": silos,
        "who": who,
        "rounds_per_second": 1000 / (median(each) * silos),
        "ms_per_silo_and_round": median(each),
        "ms_each_turn": each,
        "seconds": [list(times.seconds) for times in turns],
        **{key: max(times.extra[key] for times in turns) for key in turns[0].extra},
    }


def measure_steps(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure the time of each private step."""
    found, before = {}, crowding(given.workers, given.quick)
    for name, load in private_step.STEP_LOADS.items():
        say(name)
        found[name] = measure_step(given, load, before)
        before = found[name]["beside_after"]
    return found


def measure_step(given: argparse.Namespace, load: private_step.StepLoad, before: float) -> dict[str, Any]:
    """Measure the time of a private step. ``before``: what ``crowding`` returned before it."""
    small = replace(load, rows=8) if given.quick else load
    made = private_step.contenders(small)
    repeats = given.repeats if given.quick else 3 * given.repeats  # a turn is short
    times, _ = side_by_side(made, [], repeats, bars.PLAIN, lambda text: None)
    return {
        "about": f"{small.steps} steps of {small.rows} rows, including noise and clipping",
        "load": asdict(small),
        "contenders": {who: _figures(its) for who, its in times.items()},
        "skipped": {},
        **_judged_outside(load.name, times, given, before),
    }


def measure_start(given: argparse.Namespace) -> dict[str, Any]:
    """Measure how long commands take to start."""
    before = crowding(given.workers, given.quick)
    times = measure_startup(given.repeats)
    return {
        "about": "seconds of new processes; x floor: of fedtl --help",
        "contenders": {who: _figures(its) for who, its in times.items()},
        "skipped": {},
        **_judged_outside(bars.START, times, given, before),
    }


def _judged_outside(
    load: str, times: Mapping[str, Times], given: argparse.Namespace, before: float
) -> dict[str, Any]:
    """Return the verdicts of a part without floors of its own, and how loaded the machine was before and after it."""
    after = crowding(given.workers, given.quick)
    judged = bars.verdicts(load, times, given.workers, max(before, after))
    return {"beside_before": before, "beside_after": after, "bars": _plain(judged)}


def _plain(verdicts: Sequence[bars.Verdict]) -> list[dict[str, Any]]:
    return [asdict(verdict) for verdict in verdicts]


def _figures(times: Times) -> dict[str, Any]:
    return {
        "median": times.median,
        "min": min(times.seconds),
        "max": max(times.seconds),
        "ratio_to_floor": times.to_floor,
        "in_turn": times.in_turn,
        **times.extra,
        "seconds": list(times.seconds),
        **({} if times.in_turn else {"floor_beside": list(times.beside)}),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ",".join([*loads.LOADS, *OTHER_PARTS])
    parser.add_argument("--only", default=parts, help=f"parts to measure, with commas between them: {parts}")
    parser.add_argument("--repeats", type=int, help="number of rounds of each contender; default: 9")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(2, machine.cores()),
        help="number of workers; default: number of cores, at least 2",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny loads and 2 repeats, for tests; the times mean nothing"
    )
    parser.add_argument("--pfl-python", metavar="PATH", help="Python interpreter with pfl and torch")
    parser.add_argument("--nvflare-python", metavar="PATH", help="Python interpreter with nvflare and torch")
    parser.add_argument("--no-flower", action="store_true", help="do not measure Flower")
    parser.add_argument("--out", type=Path, metavar="JSON")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := set(given.only) - {*loads.LOADS, *OTHER_PARTS}:
        parser.error(f"--only {sorted(unknown)[0]}: unknown part; the parts are {parts}")
    given.repeats = given.repeats or (2 if given.quick else 9)
    if min(given.repeats, given.workers - 1) < 1:
        parser.error("--repeats must be 1 or more, --workers 2 or more")
    return given


def main() -> None:
    given = arguments()
    set_threads(1)
    now = datetime.now(UTC)
    result: dict[str, Any] = {
        "date": f"{now:%Y-%m-%d}",
        "machine": machine.description(_elsewhere(given)),
        "settings": {"repeats": given.repeats, "workers": given.workers, "quick": given.quick},
        "notes": bars.NOTES,
        "loads": {},
        "silos": [],
        "bars": [],
    }
    measure_parts(given, result)
    result["bars"] = [bar for its in result["loads"].values() for bar in its.pop("bars")] + result["bars"]
    path = given.out or HERE / f"{machine.slug()}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    report(result)
    say(f"wrote {path}")


def measure_parts(given: argparse.Namespace, result: dict[str, Any]) -> None:
    """Measure what ``--only`` names, into the result."""
    for name in given.only:
        if name == "resnet18" and not find_spec("torchvision"):
            say("resnet18: skipped, torchvision is not installed: pip install 'fedtl[vision]'")
        elif name not in OTHER_PARTS:
            result["loads"][name] = measure_load(given, name)
    if STEPS in given.only:
        result["loads"] |= measure_steps(given)
    if bars.START in given.only:
        say(bars.START)
        result["loads"][bars.START] = measure_start(given)
    if SILOS in given.only:
        before = crowding(given.workers, given.quick)
        result["silos"] = measure_silos(given)
        beside = max(before, crowding(given.workers, given.quick))
        result |= {"silos_beside": beside, "bars": _plain(bars.crowd(result["silos"], beside))}


if __name__ == "__main__":
    main()
