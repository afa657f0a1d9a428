"""The rounds of a run: from its last checkpoint to the last round, each with its line of history and its checkpoint."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fedtl.experiment.best_round import BestRound, better_round
from fedtl.experiment.checkpoint import load_run_state, save_run_state
from fedtl.experiment.config.resolve import limits_of
from fedtl.experiment.result import Totals
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.server_step import server_step
from fedtl.experiment.study import Study
from fedtl.experiment.used_files import check_unchanged
from fedtl.federation.recorder import RecordingFederation, rounds_to_record
from fedtl.federation.round_log import history_line
from fedtl.federation.rounds import Federation, FederationConfig, Round, ServerState, run_rounds
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.results.run import UsedFile
from fedtl.simulation.engine import Engine, Simulation
from fedtl.training.silo import Silo

ROWS = "the set of its rows"  # in the place of a file's name

Progress = Callable[[Round], None]


@dataclass(frozen=True)
class Reached:
    """What a run has reached: the server after the last round that was done, totals, and the best round with ``patience``."""

    server: ServerState
    totals: Totals
    best: BestRound | None = None
    patience: int = 0

    @property
    def stopped(self) -> bool:
        """Whether no further round is done."""
        return self.best is not None and self.best.stops(self.server.round, self.patience)

    @property
    def final(self) -> State:
        """The shared tensors of the result."""
        return self.server.shared if self.best is None else self.best.shared

    @property
    def note(self) -> str:
        """What a reader of the result should know, where there is a best round."""
        assert self.best is not None
        return (
            f"train.patience = {self.patience}: the models are those of round {self.best.round} of {self.server.round}, which has the "
            f"lowest mean loss on validation rows, {self.best.loss:.4g}"
        )


def resumed(study: Study, folder: RunFolder, members: Mapping[str, Silo]) -> Reached:
    """
    Return what the last checkpoint reached, or the start; restore the silos' local tensors. Raises ConfigError where a file that the run
    began from, or the rows of a silo, have changed.
    """
    if saved := load_run_state(folder.log):
        check_unchanged(saved.files, _began_from(study), folder.path)
        for name, local in saved.local.items():
            members[name].local, members[name].labels = local, saved.labels[name]
        return Reached(saved.server, saved.totals, saved.best, study.experiment.train.patience)
    width = next(iter(members.values())).data.width
    shared, _ = study.trainer.partition.split(study.trainer.initial(width))
    return Reached(ServerState(0, shared), Totals())


def _began_from(study: Study) -> tuple[UsedFile, ...]:
    """
    Return the files that a run begins from and, without privacy, the rows: of others, the split would be another, and rows that were
    trained on would be test rows. With privacy the ledger knows the rows.
    """
    if study.experiment.privacy is not None:
        return study.files
    marks = {name: study.silo_data.fingerprint(name) for name in study.training}
    return (*study.files, *(UsedFile(f"silo {name}", ROWS, mark) for name, mark in marks.items()))


def task_after(study: Study, name: str, shared: State) -> Task:
    """Return the task of a silo whose model is used as the rounds left it."""
    experiment = study.experiment
    return Task(name, experiment.rounds + 1, experiment.rounds, experiment.seed, shared)


def do_rounds(
    study: Study,
    folder: RunFolder,
    members: Mapping[str, Silo],
    reached: Reached,
    engine: Engine,
    progress: Progress | None,
) -> tuple[Reached, float]:
    """Do the rounds that are left. Returns what they reached, and the seconds that this took."""
    clock = started = time.perf_counter()
    began = _began_from(study)
    federation, config = _federation(study, folder, members, engine), _config(study, folder)
    left = run_rounds(federation, config, reached.server, study.trainer.partition.roles)
    for finished in () if reached.stopped else left:
        best, loss = reached.best, None
        if patience := study.experiment.train.patience:
            task = task_after(study, folder.path.name, finished.after.shared)
            best, loss = better_round(best, engine, members, task, finished.after.round)
        now = time.perf_counter()
        line = replace(history_line(finished, now - clock), validation_loss=loss)
        reached, clock = Reached(finished.after, reached.totals.plus(line), best, patience), now
        folder.log.append(line)
        save_run_state(folder.log, reached.server, members, reached.totals, best, began)
        if progress:
            progress(finished)
        if reached.stopped:
            break
    return reached, clock - started


def _federation(study: Study, folder: RunFolder, members: Mapping[str, Silo], engine: Engine) -> Federation:
    experiment = study.experiment
    recorded = rounds_to_record(experiment.rounds, experiment.audit.transcript)
    federation = Simulation(engine, members)
    return RecordingFederation(federation, folder.path / TRANSCRIPT, recorded) if recorded else federation


def _config(study: Study, folder: RunFolder) -> FederationConfig:
    experiment, pooled = study.experiment, study.method.pool
    everyone = experiment.silos_per_round == "all" or pooled
    return FederationConfig(
        folder.path.name,
        experiment.seed,
        experiment.rounds,
        server_step(study),
        None if everyone else int(experiment.silos_per_round),
        1 if pooled else experiment.minimum_silos,
        study.method.wire,
        limits_of(experiment.updates),
    )
