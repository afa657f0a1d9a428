"""
``fedtl transferability``: each silo in turn is left out, trains with the first stages of what the others learnt, and says how
much they are worth to it (Yosinski et al., 2014).

Work is divided into one job for each silo and seed, as a comparison divides it into runs; an interrupted one repeats no job.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedtl.errors import ConfigError
from fedtl.experiment.config.known_tasks import check_every_task
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.jobs import Job, Watch, Workshop, worker_pool
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study, build
from fedtl.experiment.transfer.at_silo import do_transfer, is_pretrained
from fedtl.experiment.transfer.fragment import write_cut
from fedtl.experiment.transfer.summary import summarize
from fedtl.methods.cut import with_cut
from fedtl.models.net import stages
from fedtl.results.transferability import Transferability
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.similarity import stage_names
from fedtl.training.transplant import plan

FILE = "transferability.json"
PRIVATE = (
    "fedtl transferability under [privacy]: what it measures uses privacy budget that is not charged; choose the cut with an "
    "experiment on public rows without [privacy], or by a private run for each method.cut with privacy.metrics, whose epsilons add"
)


def transferability(
    experiment: Experiment, folder: RunFolder, workers: int, device: str, watch: Watch | None = None
) -> Transferability:
    """
    Do every job that is not finished, write transferability.json and cut.toml, and return what the first holds. Raises
    ConfigError where no cut can be recommended, and what ``run`` raises.
    """
    check_question(experiment)
    clock = time.perf_counter()
    engine = EngineSettings(name="serial", threads=experiment.engine.threads, stack=experiment.engine.stack)
    serial = with_changes(experiment, engine=engine)
    with temporary_store() as rows:
        study = build(serial, rows, rows, device)
        jobs = _jobs(serial, folder.path, study)
        trainings = list(plan(len(stages(study.trainer.spec.body)), is_pretrained(experiment)))
        steps = len(jobs) * (experiment.rounds + len(trainings))
        with worker_pool(min(workers, len(jobs)), experiment.engine.threads) as pool:
            Workshop(folder.path, device, rows, pool, watch, steps).do(jobs)
    results = [RunFolder(job.path).transfer() for job in jobs]
    previous = folder.transferability().seconds if folder.has(FILE) else 0.0
    summary = summarize(experiment, results, stage_names(study.trainer), study.notes)
    summary = replace(summary, seconds=previous or round(time.perf_counter() - clock, 1))
    folder.write_json(FILE, summary)
    write_cut(folder, experiment, summary)
    return summary


def check_question(experiment: Experiment) -> None:
    """Raise ConfigError where no cut can be recommended, before any data is read."""
    if experiment.privacy is not None:
        raise ConfigError(PRIVATE)
    check_every_task(experiment, "fedtl transferability")
    if experiment.method.cut is not None:
        raise ConfigError(
            f"method.cut = {experiment.method.cut}: fedtl transferability tries every cut; remove it"
        )
    if experiment.model.adapters is not None:
        raise ConfigError(
            "model.adapters: the body is not trained, so no stage of it can be tried; remove [model.adapters]"
        )
    if not experiment.data.val:
        raise ConfigError("data.val = 0: the cut is chosen on validation rows; set data.val above 0")
    if experiment.data.label_fraction != 1.0:
        raise ConfigError(
            "data.label_fraction: the silo that is left out would train on all its labels; remove it, or lower data.limit"
        )
    try:
        with_cut(method_of(experiment.method), 1)
    except ValueError as error:
        raise ConfigError(
            f"method.name = {experiment.method.name!r} cannot be cut: {error}; set method.name, for example to fedtl"
        ) from error


def _jobs(experiment: Experiment, folder: Path, study: Study) -> Sequence[Job]:
    """
    Return a job for each silo with labels and each seed. Raises ConfigError for one silo, and for a model without stages.
    """
    silos = study.training
    if len(silos) < 2:
        raise ConfigError(
            f"only {silos[0]} trains, and fedtl transferability needs two silos or more; add silos"
        )
    if not stages(study.trainer.spec.body):
        raise ConfigError(
            f"model.name = {experiment.model.name!r}: its body has no weights, so there is nothing to cut; use another model"
        )
    return [
        Job(
            do_transfer,
            _without(experiment, seed, name, len(silos)),
            path,
            with_changes(experiment, seed=seed),
        )
        for seed in experiment.compare.seeds
        for name in silos
        if name not in experiment.data.unlabelled
        for path in [folder / "transfers" / f"{name}-seed{seed}"]
    ]


def _without(experiment: Experiment, seed: int, silo: str, silos: int) -> Experiment:
    """Return the experiment in which this silo comes late, so that the others train without it."""
    data = experiment.data.model_copy(update={"late": [*experiment.data.late, silo]})
    minimum = min(experiment.minimum_silos, silos - 1)
    return with_changes(experiment, seed=seed, data=data, minimum_silos=minimum)
