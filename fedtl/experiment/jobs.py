"""
The work of a comparison in several processes: each job trains in a folder of its own, from start to end, and continues where
the folder says that it stopped. This process only watches the folders.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from torch import multiprocessing

from fedtl.errors import ConfigError, FedTLError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.own_models import OWN, stored_own_models
from fedtl.experiment.pretrain import central_experiment, pretrain
from fedtl.experiment.run import Given, run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.experiment.trial import run_trial
from fedtl.experiment.yardsticks import write_constant
from fedtl.models.state import State
from fedtl.simulation.shared_store import SharedStore
from fedtl.simulation.worker import become_worker, failed_script, ignore_sigint

Watch = Callable[[int, int], None]  # called with the number of steps done and the number of all steps
Work = Callable[[Experiment, Path, str, State | None, SharedStore], None]
TRAININGS = "trainings"  # folder of a job with a file for each training at one silo


def do_run(experiment: Experiment, path: Path, device: str, start: State | None, rows: SharedStore) -> None:
    """Do a run of a comparison, or what is left of it; all runs share the silos' own models."""
    own = stored_own_models(path.parents[1] / OWN, experiment, device)
    run(experiment, job_folder(experiment, path), device, start=start, given=Given(rows, own))


def do_trial(experiment: Experiment, path: Path, device: str, start: State | None, rows: SharedStore) -> None:
    """Do a trial of settings, or what is left of it; the runs use the silos' own models of the trial that is chosen."""
    own = stored_own_models(path.parents[1] / OWN, experiment, device)
    run_trial(experiment, job_folder(experiment, path), device, start, Given(rows, own))


def do_constant(
    experiment: Experiment, path: Path, device: str, start: State | None, rows: SharedStore
) -> None:
    """Answer with constants. The folder has no experiment.toml, because it holds no model."""
    write_constant(experiment, RunFolder(path), rows)


def job_folder(experiment: Experiment, path: Path) -> RunFolder:
    """Return the folder of a job, which an earlier process may have begun."""
    return RunFolder.open(path) if (path / "experiment.toml").exists() else RunFolder.create(path, experiment)


@dataclass(frozen=True)
class Job:
    """
    Work for one process, in the folder ``path``. ``base``: the experiment that weights are pretrained with where it asks
    for that: the same for all trials of its settings, so that all start alike. ``effort``: about how long it takes, relative to other jobs.
    """

    work: Work
    experiment: Experiment
    path: Path
    base: Experiment
    effort: float = 0.0

    def effort_left(self) -> float:
        """Return the effort of the rounds that the folder does not have yet."""
        return self.effort * max(0.0, 1 - _finished_rounds(self.path) / self.experiment.rounds)


@dataclass(frozen=True)
class Workshop:
    """
    Where jobs are done. ``folder``: of the comparison. ``steps``: how many rounds all jobs do, and how many models silos
    finish after the last ones. ``paths``: of all jobs so far, whose steps are counted.
    """

    folder: Path
    device: str
    rows: SharedStore
    pool: ProcessPoolExecutor
    watch: Watch | None
    steps: int
    paths: list[Path] = field(default_factory=list)

    def do(self, jobs: Sequence[Job]) -> None:
        """
        Do the jobs, and return when all are done: the longest first, so that no process is left with a long one when the others have
        ended. No job needs another one of these. Raises what they raise.
        """
        self.paths.extend(job.path for job in jobs)
        jobs = sorted(jobs, key=Job.effort_left, reverse=True)  # equal ones stay in their order
        with ignore_sigint():  # the pool starts processes when work is submitted
            started = {
                self.pool.submit(_do, job, self.folder / "pretrained", self.device, self.rows): job.path
                for job in jobs
            }
        _follow(started, self._report)

    def _report(self) -> None:
        if self.watch:
            self.watch(sum(map(_finished_steps, self.paths)), self.steps)


def _do(job: Job, starts: Path, device: str, rows: SharedStore) -> None:
    """Do one job, in a worker process."""
    start: State | None = None
    if job.base.model.pretrain_on:
        central = build(central_experiment(job.base), rows, rows, device)
        folder = RunFolder(starts / f"seed{job.base.seed}")
        start = pretrain(job.base, folder, central.trainer, central.schema)
    job.work(job.experiment, job.path, device, start, rows)


def _follow(started: Mapping[Future[None], Path], report: Callable[[], None]) -> None:
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
        report()


def _finished_steps(path: Path) -> int:
    """Return how many rounds a job has done, and how many silos have finished their model, or trainings are done."""
    finished = (*path.glob("silos/*/validation.json"), *path.glob(f"{TRAININGS}/*.json"))
    return _finished_rounds(path) + len(finished)


def _finished_rounds(path: Path) -> int:
    history = path / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.exists() else 0


def _start_worker(threads: int, numbers: "SimpleQueue[int]") -> None:
    become_worker(threads, numbers.get())


@contextmanager
def worker_pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
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
