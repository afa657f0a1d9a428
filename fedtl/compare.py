"""
Several methods and seeds on the same silos, and for every silo whether joining helped.

Runs are independent, so they are what the processes share out: each is a run folder of its own, done by one
process from start to end. The driver only watches the folders.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import multiprocessing

import fedtl
from fedtl.errors import ConfigError, FedTLError
from fedtl.experiment import EngineSettings, Experiment, MethodSettings
from fedtl.metrics import CLASSIFICATION, REGRESSION, better
from fedtl.pretrain import plain, pretrained
from fedtl.runfolder import RunFolder
from fedtl.simulate.processes import become_worker
from fedtl.state import State
from fedtl.statistics import Answers, Resampling, gain, interval, verdict
from fedtl.study import build, run

LOCAL, POOLED = "local", "pooled"
YARDSTICKS = (LOCAL, POOLED)  # not methods of joining: never "best"


@dataclass(frozen=True)
class Variant:
    """One column of the comparison."""

    label: str
    experiment: Experiment

    def at(self, seed: int) -> Experiment:
        return self.experiment.but(seed=seed)

    def folder(self, seed: int) -> str:
        return f"runs/{self.label.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def variants(experiment: Experiment) -> list[Variant]:
    """
    The listed methods. The one that ``[method]`` configures keeps its settings, and, where they say so, has
    beside it itself without its further terms and itself from scratch. Raises ConfigError.
    """
    if not experiment.data.val:
        raise ConfigError(
            "data.val = 0: compare chooses each silo's best method on validation rows, so it needs some"
        )
    serial = experiment.but(engine=EngineSettings(name="serial", threads=experiment.engine.threads))
    found: list[Variant] = []
    for name in dict.fromkeys(experiment.compare.methods):
        own = name == experiment.method.name
        plain = MethodSettings(name=name, server=experiment.method.server if own else {"name": "mean"})
        found.append(Variant(name, serial if own else serial.but(method=plain)))
        if own and experiment.method.terms:
            bare = MethodSettings(**{**experiment.method.model_dump(), "terms": []})
            found.append(Variant(f"{name}, no terms", serial.but(method=bare)))
        if own and (experiment.model.weights or experiment.model.pretrain_on):
            scratch = {"weights": "", "pretrain_on": [], "freeze": 0}
            model = type(experiment.model)(**{**experiment.model.model_dump(), **scratch})
            aside = [name for name in experiment.model.pretrain_on if ":" not in name]
            found.append(Variant(f"{name}, from scratch", _without(serial.but(model=model), aside)))
    return found


def compare(
    experiment: Experiment,
    folder: RunFolder,
    workers: int,
    device: str,
    watch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """
    Do every run that is not done, and return what ``comparison.json`` then holds.

    ``watch`` is called with the number of rounds done so far. Raises what a run raises.
    """
    columns, seeds = variants(experiment), list(dict.fromkeys(experiment.compare.seeds))
    clock = time.perf_counter()
    for column in columns:
        build(column.at(seeds[0]), device)  # every mistake is said before anything is trained
    tasks = [(column.at(seed), folder.path / column.folder(seed)) for seed in seeds for column in columns]
    with _pool(min(workers, len(tasks)), experiment.engine.threads) as pool:
        started: dict[Future[None], Path] = {}
        for one, path in tasks:
            start = str(folder.path / "pretrained" / f"seed{one.seed}") if one.model.pretrain_on else None
            started[pool.submit(_one, one, str(path), device, start)] = path
        _follow(started, [path for _, path in tasks], watch)
    seconds = time.perf_counter() - clock
    content = summary(experiment, folder, columns, seeds)
    previous = folder.read_json("comparison.json")["seconds"] if folder.has("comparison.json") else 0.0
    content["seconds"] = round(previous if previous else seconds, 1)
    folder.write_json("comparison.json", content)
    return content


def curves(folder: RunFolder, columns: Sequence[Variant], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per column, the mean over silos and seeds of the received model's validation figure, round by round."""
    found: dict[str, list[float]] = {}
    for column in columns:
        key = "rmse" if column.experiment.data.task == "regression" else "accuracy"
        seen: dict[int, list[float]] = {}
        for seed in seeds:
            for line in RunFolder(folder.path / column.folder(seed)).history():
                seen.setdefault(line["round"], []).extend(
                    its[key] for its in line["silos"].values() if key in its
                )
        found[column.label] = [
            float(np.mean(seen[number])) if seen[number] else float("nan") for number in sorted(seen)
        ]
    return found


def summary(
    experiment: Experiment, folder: RunFolder, columns: Sequence[Variant], seeds: Sequence[int]
) -> dict[str, Any]:
    """What the runs of a folder say, with intervals and verdicts; no time in it, so it repeats to the byte."""
    metric, task = experiment.metric, experiment.data.task
    folders = {c.label: [RunFolder(folder.path / c.folder(seed)) for seed in seeds] for c in columns}
    results = {label: [one.read_json("result.json") for one in ones] for label, ones in folders.items()}
    silos = sorted({name for ones in results.values() for one in ones for name in one["silos"]})
    table: dict[str, dict[str, Any]] = {label: {} for label in folders}
    spread: dict[str, dict[str, dict[str, np.ndarray]]] = {label: {} for label in folders}
    for silo in silos:
        answers = {
            label: [_answers(one, silo) for one in ones]
            for label, ones in folders.items()
            if silo in results[label][0]["silos"]
        }
        resampling = Resampling.draw(next(iter(answers.values())), silo)
        for label, runs in answers.items():
            spread[label][silo], table[label][silo] = {}, {}
            for name in REGRESSION if task == "regression" else CLASSIFICATION:
                values = [one["silos"][silo].get(name) for one in results[label]]
                if None in values:
                    continue
                replicates = resampling.replicates(name, runs)
                spread[label][silo][name] = replicates
                table[label][silo][name] = {
                    "mean": float(np.mean(values)),
                    "ci95": interval(replicates),
                    "seeds": values,
                }
    best = {silo: _best(results, silo, metric) for silo in silos}
    over = {
        label: {
            silo: _over(spread, table, label, silo, metric)
            for silo in silos
            if _comparable(table, label, silo, metric)
        }
        for label in folders
        if label not in YARDSTICKS
    }
    benefit = {
        silo: {
            "best": label,
            "over_local": over[label][silo]["mean"],
            "ci95": over[label][silo]["ci95"],
            "verdict": verdict(over[label][silo]["ci95"]),
        }
        for silo, label in best.items()
        if label and silo in over[label]
    }
    warnings = [
        f"{label} is worse than local at {silo} by {-its['mean']:.3f} in {metric} "
        f"(95 % interval {-its['ci95'][1]:.3f} to {-its['ci95'][0]:.3f})"
        for label, per_silo in over.items()
        for silo, its in per_silo.items()
        if verdict(its["ci95"]) == "loses"
    ]
    content = {
        "fedtl": fedtl.__version__,
        "task": task,
        "metric": metric,
        "model": experiment.model.name,
        "rounds": experiment.rounds,
        "seeds": list(seeds),
        "methods": table,
        "mean": {label: _over_silos(table[label], spread[label]) for label in folders},
        "worst": {label: _worst(table[label], metric) for label in folders},
        "benefit": benefit,
        "over_local": over,
        "warnings": warnings,
    }
    extra = {"target": _target(results), "late": _late(results)}
    return content | {key: value for key, value in extra.items() if value}


def _without(experiment: Experiment, aside: Sequence[str]) -> Experiment:
    """From scratch, the public silos still do not train: the others must be the same in both columns."""
    if not aside:
        return experiment
    from fedtl.data import prepare

    names = [name for name in prepare.names(experiment.data) if name not in aside]
    return experiment.but(data=type(experiment.data)(**{**experiment.data.model_dump(), "silos": names}))


def _one(experiment: Experiment, path: str, device: str, start_folder: str | None) -> None:
    """One run, in a worker."""
    start: State | None = None
    if start_folder is not None:
        start = pretrained(experiment, RunFolder(Path(start_folder)), build(plain(experiment), device).bench)
    place = Path(path)
    folder = (
        RunFolder.open(place) if (place / "experiment.toml").exists() else RunFolder.create(place, experiment)
    )
    run(experiment, folder, device, start=start)


def _follow(
    started: Mapping[Future[None], Path], paths: Sequence[Path], watch: Callable[[int], None] | None
) -> None:
    pending = set(started)
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                future.result()
            except BrokenProcessPool as error:
                raise FedTLError(
                    f"the process that ran {started[future].name} died (killed, or out of memory?); go on with --resume"
                ) from error
        if watch:
            watch(sum(_lines(path / "history.jsonl") for path in paths))


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end with the block, at once where it ends in an error or in Ctrl-C."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=become_worker, initargs=(threads,))
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise


def _answers(folder: RunFolder, silo: str) -> Answers:
    tensors = folder.tensors(f"silos/{silo}/test.safetensors")
    return Answers(tensors["scores"].double().numpy(), tensors["y"].numpy(), tensors["ids"].numpy())


def _best(results: Mapping[str, Sequence[Mapping[str, Any]]], silo: str, metric: str) -> str | None:
    """The method of joining with the best mean validation figure; ties go to the one listed first."""
    chosen: tuple[str, float] | None = None
    for label, runs in results.items():
        if label in YARDSTICKS:
            continue
        values = [run["silos"].get(silo, {}).get("validation", {}).get(metric) for run in runs]
        values = [value for value in values if value is not None]
        if values and (chosen is None or better(metric, float(np.mean(values)), chosen[1])):
            chosen = label, float(np.mean(values))
    return chosen[0] if chosen else None


def _comparable(table: Mapping[str, Any], label: str, silo: str, metric: str) -> bool:
    return all(metric in table.get(name, {}).get(silo, {}) for name in (label, LOCAL))


def _over(
    spread: Mapping[str, Any], table: Mapping[str, Any], label: str, silo: str, metric: str
) -> dict[str, Any]:
    mine, other = (np.array(table[name][silo][metric]["mean"]) for name in (label, LOCAL))
    replicates = gain(metric, spread[label][silo][metric], spread[LOCAL][silo][metric])
    return {"mean": float(gain(metric, mine, other)), "ci95": interval(replicates)}


def _over_silos(table: Mapping[str, Any], spread: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in sorted({name for figures in table.values() for name in figures}):
        having = [silo for silo in table if metric in table[silo]]
        seeds = np.mean([table[silo][metric]["seeds"] for silo in having], axis=0)
        replicates = np.nanmean(np.stack([spread[silo][metric] for silo in having]), axis=0)
        found[metric] = {"mean": float(seeds.mean()), "ci95": interval(replicates), "seeds": seeds.tolist()}
    return found


def _worst(table: Mapping[str, Any], metric: str) -> dict[str, Any]:
    worst: dict[str, Any] = {}
    for silo, figures in table.items():
        if metric in figures and (not worst or better(metric, worst[metric], figures[metric]["mean"])):
            worst = {"silo": silo, metric: figures[metric]["mean"]}
    return worst


def _target(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, runs in results.items():
        for silo in runs[0]["silos"]:
            rows = {row: [run["silos"][silo].get(row) for run in runs] for row in ("target", "target_adabn")}
            if kept := {row: _averaged(ones) for row, ones in rows.items() if all(ones)}:
                found.setdefault(label, {})[silo] = kept
    return found


def _late(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        label: {
            silo: {row: _averaged([run["late"][silo][row] for run in runs]) for row in runs[0]["late"][silo]}
            for silo in runs[0]["late"]
        }
        for label, runs in results.items()
        if runs[0].get("late")
    }


def _averaged(figures: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    names = [name for name in figures[0] if all(name in one for one in figures)]
    return {
        name: {
            "mean": float(np.mean([one[name] for one in figures])),
            "seeds": [one[name] for one in figures],
        }
        for name in names
    }


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
