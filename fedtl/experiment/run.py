"""One run: from an experiment to a finished run folder."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fedtl.data import origins
from fedtl.data.dataset import SiloDataset, pool
from fedtl.data.hub_sets import commit, is_hub_set
from fedtl.errors import SiloFailed
from fedtl.experiment.config.resolve import server_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.final_models import save_frozen
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.own_models import own_models_of_run, remove_own_models
from fedtl.experiment.pretrain import central_experiment, pretrain
from fedtl.experiment.provenance import silo_provenance
from fedtl.experiment.result import Totals, run_result, save_outcome
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.run_rounds import Progress, do_rounds, resumed, task_after
from fedtl.experiment.server_step import server_notes
from fedtl.experiment.study import (
    Study,
    build,
    make_worker_context,
    served_silos,
    study_data,
    training_silos,
)
from fedtl.experiment.study_data import RowStores, StudyData
from fedtl.experiment.used_files import used_files
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.privacy import taint
from fedtl.privacy.ledger_reading import check_study_fits
from fedtl.results.metrics import Measured
from fedtl.results.run import RunResult
from fedtl.simulation import choose
from fedtl.simulation.engine import Engine, Job
from fedtl.simulation.shared_store import SharedStore, temporary_store
from fedtl.training import threads as machine
from fedtl.training.at_home import OwnModel, tuned_model
from fedtl.training.batches import learns_from
from fedtl.training.finish import Examine, Onboard, Outcome
from fedtl.training.silo import Silo

POOLED = "pooled"
Finishing = Callable[[int, int], None]  # how many silos have finished their model, and of how many


@dataclass(frozen=True)
class Machine:
    """Where a run is done: on which device, and with which initial weights, if some were pretrained."""

    device: str
    start: State | None = None


@dataclass(frozen=True)
class Trained:
    """
    A study after its last round, with the engine that still runs. ``members``: who took part in the rounds. ``data``: of
    every silo that trained or comes late. ``shared``: the final shared tensors; ``frozen``: those that no silo may move.
    """

    study: Study
    engine: Engine
    members: Mapping[str, Silo]
    data: Mapping[str, SiloDataset]
    shared: State
    frozen: State
    totals: Totals
    name: str

    @property
    def task(self) -> Task:
        """What each silo receives to finish its model."""
        return task_after(self.study, self.name, self.shared)

    @property
    def silos(self) -> list[Silo]:
        """The silos that get a model, each with what it kept in training; for the method "pooled", with nothing."""
        study = self.study
        return [
            self.members.get(name) or study.silo(name, self.data[name])
            for name in sorted(served_silos(study))
        ]

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """Yield the results of a job at these silos. Raises SiloFailed if a silo fails."""
        for name, result in self.engine.each(job, silos):
            if isinstance(result, SiloFailed):
                raise result
            yield name, result


@dataclass(frozen=True)
class Given:
    """What several runs share: a store of the rows that they read, and what trains, or finds, a silo's own model."""

    raws: SharedStore | None = None
    own: OwnModel | None = None


NOTHING_GIVEN = Given()


def run(
    experiment: Experiment,
    folder: RunFolder,
    device: str = "cpu",
    progress: Progress | None = None,
    start: State | None = None,
    given: Given = NOTHING_GIVEN,
    finishing: Finishing | None = None,
) -> RunResult:
    """
    Run the experiment, or what is left of it, and return what ``result.json`` then holds. Test rows are read once, after the
    last round.

    ``progress`` is called after each round, ``finishing`` as silos finish their models after the last one. ``given``: what
    several runs share. Raises what ``build`` raises, BudgetExhausted where a silo's ledger has no room for the whole run, and
    NotEnoughSilos.
    """
    if folder.has("result.json"):
        return folder.result()
    with ready_study(experiment, folder, Machine(device, start), given.raws) as (study, on):
        with trained(study, folder, on, progress) as done:
            clock = time.perf_counter()
            own = given.own or own_models_of_run(folder.path, experiment, device)
            outcomes, late = _evaluate(done, folder, own, finishing)
            workers = done.engine.workers
        totals = replace(done.totals, seconds=done.totals.seconds + time.perf_counter() - clock)
        result = run_result(done.study, folder, outcomes, late, done.data, totals, (device, workers))
    remove_own_models(folder.path)
    folder.write_json("result.json", result)
    return result


@contextmanager
def ready_study(
    experiment: Experiment, folder: RunFolder, on: Machine, raws: SharedStore | None
) -> Iterator[tuple[Study, Machine]]:
    """
    Yield the study with every silo's guarantee and prepared rows, and the machine with pretrained weights, if there are any.
    Raises what ``run`` raises before training.
    """
    machine.set_threads(experiment.engine.threads)
    with temporary_store() as prepared:
        stores, start = RowStores(raws or prepared, prepared), on.start
        schema = read_data_schema(experiment, lambda name: stores.stored(experiment.data, name))
        if experiment.privacy is not None:  # before anything is trained, also on public rows
            _check_origins(experiment, study_data(experiment, stores, schema))
        if experiment.model.pretrain_on and start is None:
            central = build(central_experiment(experiment), stores.raw, prepared, on.device, None, schema)
            start = pretrain(experiment, folder, central.trainer, schema)
        study = build(experiment, stores.raw, prepared, on.device, start, schema)
        _save_looked_up(experiment, study, folder)
        study = replace(with_guarantees(study, folder), files=used_files(experiment))
        for guarantee in study.guarantees.values():
            check_study_fits(guarantee.account, guarantee.plan(), folder.path.name)
        for name in (*study.training, *experiment.data.late):
            study.data(name)
            if experiment.privacy is None:
                study.silo_data.fingerprint(name)
            if stores.raw is stores.prepared:
                stores.raw.remove(f"{name}.raw")  # no other run needs it
        yield study, Machine(on.device, start)


@contextmanager
def trained(
    study: Study, folder: RunFolder, on: Machine, progress: Progress | None = None
) -> Iterator[Trained]:
    """Do the rounds that are left, write the shared tensors, and yield what there is then."""
    data = {name: study.data(name) for name in (*study.training, *study.experiment.data.late)}
    members = _members(study, {name: data[name] for name in study.training})
    reached = resumed(study, folder, members)
    clock = time.perf_counter()
    context = partial(make_worker_context, study.source, on.device, on.start)
    with choose.make_engine(study.experiment.engine, study.trainer, context, len(members)) as engine:
        reached, training_seconds = do_rounds(study, folder, members, reached, engine, progress)
        if reached.best is not None:
            reached.best.restore(members)
            study = replace(study, notes=(*study.notes, reached.note))
        learned = tuple(server_notes(server_of(study.experiment.method), reached.server.memory))
        study = replace(study, notes=(*study.notes, *learned))
        shared, totals = _final_shared(study, members, reached.final), reached.totals
        provenance = taint.combined_labels(silo_provenance(study, name) for name in study.training)
        folder.save_tensors("shared.safetensors", shared, provenance)
        frozen = save_frozen(folder, study.trainer, study.first)
        seconds = totals.seconds + time.perf_counter() - clock - training_seconds
        totals = replace(totals, seconds=seconds)
        yield Trained(study, engine, members, data, shared, frozen, totals, folder.path.name)


def _evaluate(
    done: Trained, folder: RunFolder, own: OwnModel, finishing: Finishing | None
) -> tuple[dict[str, Outcome], dict[str, Mapping[str, Measured]]]:
    """Finish and score the model of each silo that trained, write it, and onboard the late silos."""
    study, experiment = done.study, done.study.experiment
    test_rows = study.silo_data.evaluation_set
    outcomes: dict[str, Outcome] = {}
    silos = done.silos
    if finishing:
        finishing(0, len(silos))
    for name, outcome in done.each(Examine(done.task, test_rows, own), silos):
        save_outcome(study, folder, done.shared | done.frozen, name, outcome)
        outcomes[name] = outcome.without_tensors()  # the folder has them
        if finishing:
            finishing(len(outcomes), len(silos))
    alone_epochs = experiment.rounds * experiment.train.epochs
    onboard = Onboard(done.task, test_rows, experiment.data.shots, alone_epochs, experiment.data.late_head)
    late = [study.silo(name, done.data[name]) for name in experiment.data.late]
    return dict(sorted(outcomes.items())), dict(done.each(onboard, late))


def _save_looked_up(asked: Experiment, study: Study, folder: RunFolder) -> None:
    """Write what was looked up into the folder, which then alone repeats the run: the scale of pixels, and the commit of a set by name."""
    data = asked.data
    if is_hub_set(data.path) and (found := commit(data)) != data.revision:
        data = data.model_copy(update={"revision": found})
    if (study.experiment.model, data) != (asked.model, asked.data):
        update = {
            "model": study.experiment.model,
            "data": folder.experiment().data.model_copy(update={"revision": data.revision}),
        }
        folder.save_experiment(folder.experiment().model_copy(update=update))


def _check_origins(experiment: Experiment, data: StudyData) -> None:
    """Raise ConfigError where a silo's rows are prepared with values that were learned from them."""
    for name in training_silos(experiment, data.schema):
        origins.check_origins(data.dataset(name).origins, name)


def _members(study: Study, data: Mapping[str, SiloDataset]) -> dict[str, Silo]:
    """Return who takes part in the rounds: each silo with rows for a loss; for "pooled" one silo with the rows of all."""
    if study.method.pool:
        return {POOLED: study.silo(POOLED, pool(list(data.values())))}
    return {
        name: study.silo(name, own) for name, own in data.items() if learns_from(study.method.losses, own)
    }


def _final_shared(study: Study, members: Mapping[str, Silo], shared: State) -> State:
    """Return the shared tensors; of a pooled run, tuned on the pooled rows, with their exact statistics."""
    if not study.method.pool:
        return shared
    pooled, trainer, task = members[POOLED], study.trainer, task_after(study, POOLED, shared)
    state = trainer.adapt(tuned_model(trainer, pooled, task), pooled.data.inputs, pooled.data.width)
    return trainer.partition.split(state)[0]
