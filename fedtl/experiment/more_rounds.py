"""More rounds for a run that is finished or was interrupted: afterwards it is as if it had been started with all of them."""

import shutil
from collections.abc import Iterator

from fedtl.errors import BudgetExhausted, ConfigError
from fedtl.experiment.checkpoint import load_run_state
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.resolve import method_of, server_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.used_files import check_unchanged, used_files
from fedtl.federation.soup import soup_rounds
from fedtl.methods.losses import Loss

FINAL = (
    "result.json",
    "report.html",
    "shared.safetensors",
    "frozen.safetensors",
)  # written after the last round


def add_rounds(folder: RunFolder, rounds: int) -> int:
    """
    Raise the number of the run's rounds by ``rounds`` and return the new number. Nothing is trained here; the run does the further
    rounds when it is resumed. What was written after the last round is removed, the settings last, so that a process that is killed
    in between leaves a run that can be resumed with the old number of rounds.

    Raises ConfigError where rounds that are done would have been others in a longer run or a file that it began from has changed, and BudgetExhausted for a private run.
    """
    experiment = folder.experiment()
    state = load_run_state(folder.log)
    if state is None:
        raise ConfigError(
            f"{folder.path} has no round yet; start a new run with the number of rounds that you want"
        )
    check_unchanged(state.files, used_files(experiment), folder.path)
    if experiment.privacy is not None:
        raise BudgetExhausted(
            f"--more-rounds {rounds}: the noise was chosen so that {experiment.rounds} rounds use up privacy.epsilon = "
            f"{experiment.privacy.epsilon:g}; further rounds would exceed it. Start a new run with more rounds"
        )
    for reason in _reasons(experiment):
        raise ConfigError(f"--more-rounds {rounds}: {reason}; start a new run with more rounds")
    patience = experiment.train.patience
    if state.best is not None and state.best.stops(state.server.round, patience):
        raise ConfigError(
            f"--more-rounds {rounds}: train.patience = {patience} stopped the run after round {state.server.round}, and would again; "
            "start a new run with more patience"
        )
    longer = with_changes(experiment, rounds=experiment.rounds + rounds)
    for name in FINAL:
        (folder.path / name).unlink(missing_ok=True)
    shutil.rmtree(folder.path / "silos", ignore_errors=True)
    folder.save_experiment(longer)
    return longer.rounds


def _reasons(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting by which the rounds that are done depend on the number of all rounds."""
    method = method_of(experiment.method)
    if experiment.train.schedule != "constant":
        yield f"train.schedule = {experiment.train.schedule!r} gave each round its learning rate by the number of all rounds"
    if (soup := soup_rounds(server_of(experiment.method))) > 1:
        yield f"method.server.soup = {soup} has averaged the last rounds into the model"
    for term in method.every_term:
        if isinstance(term, Loss) and term.follows_progress:
            yield f"{type(term).__name__} has a weight that grows over all rounds"
    if any(phase.pick is not None and phase.pick.at_random for phase in method.phases):
        yield f"method {experiment.method.name!r} draws models at random in the first part of all rounds"
    if experiment.audit.transcript > 1:
        yield f"audit.transcript = {experiment.audit.transcript} rounds were recorded, spread over all rounds"
