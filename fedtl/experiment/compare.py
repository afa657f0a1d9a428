"""
Train several methods with several seeds on the same silos, and compare them at every silo.

Runs are independent: each has its own run folder, and one process does it from start to end. On a Ray cluster the runs are
done one after another, each on the whole cluster. This process only watches the folders.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from torch import multiprocessing

from fedtl._util.records import to_plain
from fedtl.errors import ConfigError, FedTLError
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.resolve import method_of, without_release
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.pretrain import central_experiment, pretrain
from fedtl.experiment.privacy_report import privacy_report
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.experiment.summary import summarize_runs
from fedtl.models.state import State
from fedtl.results.comparison import Comparison
from fedtl.results.privacy import PrivacyReport
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.shared_store import SharedStore, temporary_store
from fedtl.simulation.worker import become_worker, failed_script, ignore_sigint

EXACT = (
    "methods",
    "mean",
    "worst",
    "benefit",
    "over_local",
    "warnings",
    "absent",
    "refitted",
    "target",
    "late",
)  # keys of comparison.json that hold metrics on test rows


@dataclass(frozen=True)
class Column:
    """One column of the comparison."""

    label: str
    experiment: Experiment

    def at(self, seed: int) -> Experiment:
        return with_changes(self.experiment, seed=seed)

    def folder(self, seed: int) -> str:
        return f"runs/{self.label.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def comparison_columns(experiment: Experiment) -> list[Column]:
    """
    Return a column for each listed method. The one that ``[method]`` configures keeps its settings; with further terms it has
    a second column without them, and with pretrained weights one from scratch. Where training is private and starts from
    public weights, "probe" is added: a head on the public backbone, without training together. Raises ConfigError.
    """
    if not experiment.data.val and experiment.privacy is None:
        raise ConfigError(
            "data.val = 0: compare chooses each silo's best method on validation rows; set data.val above 0"
        )
    engine = EngineSettings(name="serial", threads=experiment.engine.threads, stack=experiment.engine.stack)
    serial = with_changes(experiment, engine=engine)
    columns: list[Column] = []
    public = bool(experiment.model.weights or experiment.model.pretrain_on)
    added = ["probe"] if experiment.privacy and public else []
    for name in dict.fromkeys([*experiment.compare.methods, *added]):
        own = name == experiment.method.name
        plain = MethodSettings(name=name, server=experiment.method.server if own else {"name": "mean"})
        # Baselines release nothing, so they are never private.
        open_: dict[str, Any] = (
            {"privacy": None, "silo": {}, "data": without_release(experiment.data)}
            if experiment.privacy and _is_baseline(plain)
            else {}
        )
        columns.append(
            Column(
                name, with_changes(serial, **open_) if own else with_changes(serial, method=plain, **open_)
            )
        )
        if own and experiment.method.terms:
            bare = MethodSettings(**{**experiment.method.model_dump(), "terms": []})
            columns.append(Column(f"{name}, no terms", with_changes(serial, method=bare)))
        if own and (experiment.model.weights or experiment.model.pretrain_on):
            scratch = {"weights": "", "pretrain_on": [], "freeze": 0}
            model = type(experiment.model)(**{**experiment.model.model_dump(), **scratch})
            train = experiment.train.model_copy(update={"roles": []})
            aside = [name for name in experiment.model.pretrain_on if ":" not in name]
            columns.append(
                Column(
                    f"{name}, from scratch",
                    _without_silos(with_changes(serial, model=model, train=train), aside),
                )
            )
    return columns


def _is_baseline(settings: MethodSettings) -> bool:
    method = method_of(settings)
    return method.pool or not method.shared


def compare(
    experiment: Experiment,
    folder: RunFolder,
    workers: int,
    device: str,
    watch: Callable[[int], None] | None = None,
    raws: SharedStore | None = None,
) -> Comparison:
    """
    Do every run that is not finished, write ``comparison.json``, and return what it holds.

    ``watch`` is called with the number of rounds done so far. ``raws``: a store that has the silos' stored rows. Raises
    what ``run`` raises.
    """
    columns, seeds = comparison_columns(experiment), experiment.compare.seeds
    clock = time.perf_counter()
    tasks = [(column.at(seed), folder.path / column.folder(seed)) for seed in seeds for column in columns]
    workers = 1 if experiment.engine.name == "ray" else min(workers, len(tasks))
    with (
        nullcontext(raws) if raws else temporary_store() as rows,
        _pool(workers, experiment.engine.threads) as pool,
    ):
        # Report every mistake before anything is trained.
        notes = [note for column in columns for note in build(column.at(seeds[0]), rows, rows, device).notes]
        started: dict[Future[None], Path] = {}
        with ignore_sigint():  # the pool starts processes when work is submitted
            for run_settings, path in tasks:
                start = (
                    str(folder.path / "pretrained" / f"seed{run_settings.seed}")
                    if run_settings.model.pretrain_on
                    else None
                )
                started[pool.submit(_do_run, run_settings, str(path), device, start, rows)] = path
        _follow(started, [path for _, path in tasks], watch)
    seconds = time.perf_counter() - clock
    comparison = summarize_runs(experiment, run_folders(experiment, folder))
    previous = folder.comparison().seconds if folder.has("comparison.json") else 0.0
    comparison = replace(
        comparison,
        warnings=(*comparison.warnings, *dict.fromkeys(notes)),
        seconds=round(previous if previous else seconds, 1),
        privacy=_privacy(experiment, comparison),
    )
    folder.write_json("comparison.json", comparison)
    return comparison


def _privacy(experiment: Experiment, comparison: Comparison) -> PrivacyReport | None:
    """Return what each run of a method that shares guarantees."""
    if experiment.privacy is None:
        return None
    written = to_plain(comparison)
    return replace(
        privacy_report(experiment.privacy),
        epsilon=experiment.privacy.epsilon,
        not_released=tuple(key for key in EXACT if key in written),
    )


def run_folders(experiment: Experiment, folder: RunFolder) -> dict[str, list[RunFolder]]:
    """Return the run folders of a comparison: for each column one folder a seed."""
    return {
        column.label: [RunFolder(folder.path / column.folder(seed)) for seed in experiment.compare.seeds]
        for column in comparison_columns(experiment)
    }


def _without_silos(experiment: Experiment, aside: Sequence[str]) -> Experiment:
    """Return the experiment without these silos, so that the column from scratch trains the same silos as the others."""
    if not aside:
        return experiment
    from fedtl.data import prepare

    names = [name for name in prepare.silo_names(experiment.data) if name not in aside]
    return with_changes(
        experiment, data=type(experiment.data)(**{**experiment.data.model_dump(), "silos": names})
    )


def _do_run(
    experiment: Experiment, path: str, device: str, start_folder: str | None, raws: SharedStore
) -> None:
    """Do one run, in a worker process."""
    start: State | None = None
    if start_folder is not None:
        central = build(central_experiment(experiment), raws, raws, device)
        start = pretrain(experiment, RunFolder(Path(start_folder)), central.trainer, central.schema)
    location = Path(path)
    folder = (
        RunFolder.open(location)
        if (location / "experiment.toml").exists()
        else RunFolder.create(location, experiment)
    )
    run(experiment, folder, device, start=start, raws=raws)


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
                    f"the process of run {started[future].name} died (killed, or out of memory?); continue with --resume"
                ) from error
        if watch:
            watch(sum(_finished_rounds(path / "history.jsonl") for path in paths))


def _finished_rounds(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _start_worker(threads: int, numbers: "SimpleQueue[int]") -> None:
    become_worker(threads, numbers.get())


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes, and end them with the block: at once after an error or Ctrl-C."""
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(threads, numbers))
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        processes = list((pool._processes or {}).values())
        for process in processes:
            process.terminate()
        pool.shutdown(cancel_futures=True)
        scripts = [script for process in processes if (script := failed_script(process.exitcode))]
        if scripts and isinstance(error.__cause__, BrokenProcessPool):
            raise ConfigError(scripts[0]) from None
        raise
