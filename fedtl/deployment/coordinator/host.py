"""Runs the rounds of a study at the coordinator, with a checkpoint after each, from wherever the study was interrupted."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file

from fedtl._util.files import write_bytes, write_file, write_json
from fedtl.deployment.coordinator.asking import asked_until
from fedtl.deployment.coordinator.early_files import EARLY_FOLDER, EarlyFiles
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy, log_before, why_stopped
from fedtl.deployment.coordinator.study_files import StudyPlan, StudyResult
from fedtl.deployment.coordinator.verdicts import VerdictQuestions, ask_for_verdicts, open_verdicts
from fedtl.deployment.running import no_room
from fedtl.errors import ConfigError, NotEnoughSilos
from fedtl.federation.limits import outliers
from fedtl.federation.round_log import history_line
from fedtl.federation.rounds import Federation, FederationConfig, Round, ServerState, run_rounds
from fedtl.messages import Task, verdict_question
from fedtl.models.state import State
from fedtl.privacy import taint_metadata
from fedtl.privacy.taint import Label
from fedtl.results.run import HistoryLine

log = logging.getLogger(__name__)
Progress = Callable[[Round], None]


class ConnectedSilos(Federation, Protocol):
    """Sites that connect to the coordinator, and may be away."""

    def away(self) -> Mapping[str, str]:
        """By name, a sentence for each admitted site that was not connected when the round began."""
        ...

    def questions(self, question: Task) -> VerdictQuestions:
        """The question whether joining helped, to be sent to sites one by one."""
        ...


Configure = Callable[[HostedStudy, StudyPlan], FederationConfig]
Connect = Callable[
    [StudyPlan, Iterable[str]], ConnectedSilos
]  # from the plan and the sites of the last round


def as_planned(study: HostedStudy, plan: StudyPlan) -> FederationConfig:
    """Return how the rounds are run, as the plan says."""
    return plan.config


def host_study(
    study: HostedStudy, connect: Connect, progress: Progress | None = None, configure: Configure = as_planned
) -> StudyResult:
    """
    Run the remaining rounds and write the result; then, where the plan says so, ask the sites whether joining helped.

    ``configure``: returns how the rounds are run; a method that distils needs more than its plan (``distil.with_public_model``). Raises
    NotEnoughSilos when a round got too few valid replies in each of ``tries`` attempts. An attempt does not count where there would be
    enough with the sites that do not train at this time of the day. Raises ConfigError, and stops the study, before a round for which
    the disk has too little room.
    """
    with study.alone():
        plan = study.plan
        lines = study.log.lines()
        federation = connect(plan, lines[-1].silos if lines else ())
        if not study.done:
            state = _run_rounds(study, plan, federation, configure(study, plan), progress)
            _write_shared(study.path / "shared.safetensors", plan, state.shared)
            result = StudyResult.of(plan.config.study, study.log.lines())
            if plan.verdict:
                result = open_verdicts(study, plan, result)
            write_json(study.path / "result.json", result, private=True)
        if asked_until(study) is None:
            return study.result
        config, shared = plan.config, load_file(study.path / "shared.safetensors")
        question = verdict_question(config.study, config.rounds, config.seed, shared)
        return ask_for_verdicts(study, plan, federation.questions(question))


def _run_rounds(
    study: HostedStudy,
    plan: StudyPlan,
    federation: ConnectedSilos,
    config: FederationConfig,
    progress: Progress | None,
) -> ServerState:
    state, tries_left = _resumed(study), plan.tries
    known = {name for line in study.log.lines() for name in line.silos}
    early = EarlyFiles(study.path / EARLY_FOLDER)
    early.clear()  # what a killed process left
    while state.round < plan.config.rounds:
        started = time.monotonic()
        _check_may_go_on(study)
        try:
            for finished in run_rounds(federation, config, state, plan.roles, early):
                finished = replace(finished, left_out={**federation.away(), **finished.left_out})
                line = history_line(finished, time.monotonic() - started)
                for warning in outliers(line.weights, line.norms, plan.config.limits):
                    log.warning("round %d: %s", line.round, warning)
                _keep(study, state, finished.after, line, known)
                known |= set(line.silos)
                state, tries_left, started = finished.after, plan.tries, time.monotonic()
                if progress:
                    progress(finished)
                if state.round < plan.config.rounds:
                    _check_may_go_on(study)
        except NotEnoughSilos as error:
            reason = f"{error}{_discarded(plan, error)}"
            if error.later:
                log.info("%s; trying the round again in %g s", reason, plan.ask_again)
                time.sleep(plan.ask_again)
                continue
            tries_left -= 1
            log.warning("%s%s", reason, "; trying the round again" if tries_left else "")
            if tries_left < 1:
                write_bytes(study.path / STOPPED_FILE, f"{reason}\n".encode(), private=True)
                raise
    return state


def _resumed(study: HostedStudy) -> ServerState:
    """Return the state to continue from; where it cannot be read, stop the study, because that is so at each attempt. Raises ConfigError."""
    try:
        return study.state()
    except ConfigError as error:
        write_bytes(study.path / STOPPED_FILE, f"{error}\n".encode(), private=True)
        raise


def _keep(
    study: HostedStudy, before: ServerState, after: ServerState, line: HistoryLine, known: set[str]
) -> None:
    """Store a round, and the state before it where a silo comes late, which is none of ``known``: for its withdrawal."""
    if before.round and not known.issuperset(line.silos):
        log_before(study, line.round).save(before)
    study.log.append(line)
    study.log.save(after)


def _check_may_go_on(study: HostedStudy) -> None:
    """
    Raise ConfigError before sites are asked and charged where the study was stopped, also by a ``fedtl server stop`` that the SuperLink did not
    answer; and stop it where a round could not be stored.
    """
    if (stopped := why_stopped(study)) is not None:
        raise ConfigError(f"study {study.path.name} was stopped: {stopped}")
    if reason := no_room(study.path):
        write_bytes(study.path / STOPPED_FILE, f"{reason}, then start it again\n".encode(), private=True)
        raise ConfigError(reason)


def _discarded(plan: StudyPlan, error: NotEnoughSilos) -> str:
    """
    Return which sites paid for updates of a round that are not used; "" where none were sent. Where the plan is not private, a site
    may train privately by its own policy, which the coordinator does not know.
    """
    if not error.unused:
        return ""
    which = (
        ", ".join(error.unused) if plan.private else "those of them that train privately by their own policy"
    )
    return (
        f" (privacy budget was charged at {which}; they send the same updates without another charge "
        "when this round is tried again)"
    )


def _write_shared(path: Path, plan: StudyPlan, shared: State) -> None:
    """
    Write the shared tensors with their provenance labels: released with noise where the plan makes every site train
    privately, otherwise computed from private rows. No labels where the plan does not state it.
    """
    labels = None
    if plan.private is not None:
        label = Label.RELEASED if plan.private else Label.LOCAL
        labels = taint_metadata.label_metadata(dict.fromkeys(shared, label))
    write_file(path, lambda file: save_file(shared, file, labels), private=True)
