"""
One run: from an experiment to a run folder. Builds silos, engine and method, and drives the rounds.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fedtl._util.records import from_plain, to_plain
from fedtl.data import origins
from fedtl.data.dataset import SiloDataset, pool
from fedtl.data.prepare import EvaluationSet
from fedtl.errors import SiloFailed
from fedtl.experiment.config.resolve import server_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.pretrain import plain, pretrained
from fedtl.experiment.result import Totals, history_line, run_result, save_outcome
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import Study, StudySource, build, make_worker_context, reader
from fedtl.federation.recorder import RecordingFederation, rounds_to_record
from fedtl.federation.rounds import Federation, FederationConfig, Round, ServerState, run_rounds
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.privacy import taint as labels
from fedtl.privacy.ledger_reading import check_study_fits
from fedtl.results.run import RunResult
from fedtl.simulation import choose
from fedtl.simulation.engine import Engine, Job, Simulation
from fedtl.simulation.shared_store import SharedStore, temporary_store
from fedtl.training import threads as machine
from fedtl.training.finish import Examine, Onboard, Outcome
from fedtl.training.silo import Silo

NOTHING = torch.empty(0)
POOLED = "pooled"
Progress = Callable[[Round], None]


def run(
    experiment: Experiment,
    folder: RunFolder,
    device: str = "cpu",
    progress: Progress | None = None,
    start: State | None = None,
    raws: SharedStore | None = None,
) -> RunResult:
    """
    Run the experiment, or what is left of it, and return what ``result.json`` then holds.

    The test rows are opened once, after the last round. ``raws``: where several runs share what they read.
    Raises what ``build`` raises, BudgetExhausted where a silo's ledger has no room for the whole run, and NotEnoughSilos.
    """
    if folder.has("result.json"):
        return folder.result()
    machine.set_threads(experiment.engine.threads)
    with temporary_store() as shelf:
        raws = raws or shelf
        seen = read_data_schema(experiment, reader(raws, experiment.data))
        if experiment.privacy is not None:  # before anything is trained, public rows included
            _check_origins(StudySource(experiment, seen, shelf, raws))
        if experiment.model.pretrain_on and start is None:
            central = build(plain(experiment), raws, shelf, device, None, seen)
            start = pretrained(experiment, folder, central.trainer, seen)
        study = build(experiment, raws, shelf, device, start, seen).promised(folder)
        for its in study.guarantees.values():
            check_study_fits(its.account, its.plan(), folder.path.name)
        for name in (*study.training, *experiment.data.late):
            study.data(name)
            if raws is shelf:
                shelf.remove(f"{name}.raw")  # nobody else needs it
        result = _run(study, folder, device, start, progress)
    folder.write_json("result.json", result)
    return result


def _run(
    study: Study, folder: RunFolder, device: str, start: State | None, progress: Progress | None
) -> RunResult:
    experiment = study.experiment
    everybody = {name: study.data(name) for name in (*study.training, *experiment.data.late)}
    members = _members(study, {name: everybody[name] for name in study.training})
    begun = _begin(study, folder, members)
    clock = time.perf_counter()
    place = partial(make_worker_context, study.source, device, start)
    with choose.make_engine(experiment.engine, study.trainer, place, len(members)) as engine:
        standing, totals, trained_seconds = _train(study, folder, members, begun, engine, progress)
        shared = _shared_in_the_end(study, members, standing.shared)
        task = Task(folder.path.name, experiment.rounds + 1, experiment.rounds, experiment.seed, shared)
        labelled = labels.together(study.trained(name) for name in study.training)
        folder.save_tensors("shared.safetensors", shared, labelled)
        silos = [members.get(name) or study.silo(name, everybody[name]) for name in sorted(study.training)]
        exam = partial(_exam, study.source)
        examined: dict[str, Outcome] = {}
        for name, outcome in _all(engine, Examine(task, exam), silos):
            save_outcome(study, folder, shared, name, outcome)
            examined[name] = replace(outcome, state={}, scores=NOTHING, ids=NOTHING)  # the folder has them
        examined = dict(sorted(examined.items()))
        late = [study.silo(name, everybody[name]) for name in experiment.data.late]
        onboard = Onboard(task, exam, experiment.data.shots, experiment.rounds * experiment.train.epochs)
        onboarded = dict(_all(engine, onboard, late))
        workers = engine.workers
    rest = time.perf_counter() - clock - trained_seconds
    totals = replace(totals, seconds=totals.seconds + rest)
    return run_result(study, folder, examined, onboarded, everybody, totals, (device, workers))


def _all(engine: Engine, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
    """As Engine.each, where nobody may fail."""
    for name, result in engine.each(job, silos):
        if isinstance(result, SiloFailed):
            raise result
        yield name, result


def _check_origins(source: StudySource) -> None:
    """Raise ConfigError where a silo's rows are prepared with values that were learned from them."""
    study = source.study(trainer=None)  # type: ignore[arg-type]
    for name in study.training:
        origins.check_origins(study.data(name).origins, name)


def _exam(source: StudySource, name: str) -> EvaluationSet:
    return source.study(trainer=None).exam(name)  # type: ignore[arg-type]


def _members(study: Study, data: Mapping[str, SiloDataset]) -> dict[str, Silo]:
    """Who takes part in the rounds: every silo, or, for the yardstick, one that has everybody's rows."""
    if study.method.pool:
        return {POOLED: study.silo(POOLED, pool(list(data.values())))}
    return {name: study.silo(name, its) for name, its in data.items()}


def _begin(study: Study, folder: RunFolder, members: dict[str, Silo]) -> tuple[ServerState, Totals]:
    """The first standing, or the last one saved, with the silos' local tensors put back."""
    if saved := folder.saved():
        standing, locals_, so_far = saved
        for name, own in locals_.items():
            members[name].local, members[name].labels = own
        return standing, from_plain(Totals, so_far)
    width = next(iter(members.values())).data.width
    shared, _ = study.trainer.partition.split(study.trainer.initial(width))
    return ServerState(0, shared), Totals()


def _shared_in_the_end(study: Study, members: Mapping[str, Silo], shared: State) -> State:
    """What was averaged; of a pooled run, with the exact statistics of the pooled training rows."""
    if not study.method.pool:
        return shared
    pooled, trainer = members[POOLED], study.trainer
    state = trainer.adapt(
        trainer.partition.join(shared, pooled.local), pooled.data.train.x, pooled.data.width
    )
    return trainer.partition.split(state)[0]


def _train(
    study: Study,
    folder: RunFolder,
    members: dict[str, Silo],
    begun: tuple[ServerState, Totals],
    engine: Engine,
    progress: Progress | None,
) -> tuple[ServerState, Totals, float]:
    standing, totals = begun
    experiment = study.experiment
    per_round = (
        None if experiment.silos_per_round == "all" or study.method.pool else int(experiment.silos_per_round)
    )
    minimum = 1 if study.method.pool else experiment.minimum_silos
    plan = FederationConfig(
        folder.path.name, experiment.seed, experiment.rounds, server_of(experiment.method), per_round, minimum
    )
    clock = started = time.perf_counter()
    federation: Federation = Simulation(engine, members)
    if kept := rounds_to_record(experiment.rounds, experiment.audit.transcript):
        federation = RecordingFederation(federation, folder.path / TRANSCRIPT, kept)
    for one in run_rounds(federation, plan, standing, study.trainer.partition.roles):
        standing, now = one.after, time.perf_counter()
        line = history_line(one, now - clock)
        totals, clock = totals.plus(line), now
        folder.append(line)
        own = {name: (silo.local, silo.labels) for name, silo in members.items()}
        folder.save(standing, own, to_plain(totals))
        if progress:
            progress(one)
    return standing, totals, clock - started
