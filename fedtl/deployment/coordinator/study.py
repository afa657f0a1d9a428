"""
The folder of a study at the coordinator. It holds tensors by name, and neither data nor a model.

    plan.json            rounds, seed, minimum, server step, roles       start.safetensors      the first shared tensors
    history.jsonl        a line for each round                           checkpoint/state.pt    after the last round
    before/ROUND/        the state before a round after the first in which an update of a site counted for the first time
    shared.safetensors   and result.json: when the study is done         stopped                why it was stopped
    queued               since when it waits for another study to end    runs.jsonl             its runs in Flower
    asking               until when sites are asked if joining helped, and when next
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from fedtl._util.files import lock_folder, read_text_if_any, write_file, write_json
from fedtl._util.records import from_plain
from fedtl.deployment.coordinator.study_files import StudyPlan, StudyResult
from fedtl.errors import ConfigError
from fedtl.federation.round_log import RoundLog
from fedtl.federation.rounds import ServerState
from fedtl.models.state import State

STOPPED_FILE = "stopped"  # says why a study was stopped; it is not resumed while the file is there
QUEUED_FILE = "queued"  # the time since which a study waits until the studies before it have ended
SERVER_FOLDER_VARIABLE = "FEDTL_SERVER"  # the environment variable that tells a ServerApp its folder


@dataclass(frozen=True)
class HostedStudy:
    path: Path

    @classmethod
    def create(cls, path: Path, plan: StudyPlan, start: State) -> "HostedStudy":
        """
        Create the folder, or open it if it already holds this study, which then waits as long as ``plan`` says. Raises
        ConfigError if it holds another study.
        """
        study = cls(path)
        if not (path / "plan.json").is_file():
            write_file(path / "start.safetensors", lambda file: save_file(start, file), private=True)
        elif not plan.is_same_study(study.plan):
            raise ConfigError(f"{path} holds another study; choose another name with --study NAME")
        write_json(path / "plan.json", plan.to_json(), private=True)
        return study

    @property
    def plan(self) -> StudyPlan:
        """The plan of the study. Raises ConfigError where the file is missing or damaged."""
        path = self.path / "plan.json"
        try:
            return StudyPlan.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is not the plan of a study: {error!r}; restore it, or start a new study with --study NAME"
            ) from error

    @property
    def done(self) -> bool:
        return (self.path / "result.json").is_file()

    @property
    def result(self) -> StudyResult:
        """The result of a study that is done. Raises ConfigError where the file is missing or damaged."""
        path = self.path / "result.json"
        try:
            return from_plain(StudyResult, json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} is not the result of a study: {error}; restore it from a backup"
            ) from error

    @property
    def queued_since(self) -> float | None:
        """The time since which the study waits for another one to end; None where it does not wait. Raises ConfigError."""
        path = self.path / QUEUED_FILE
        try:
            text = read_text_if_any(path)
            return None if text is None else float(text)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} has no time: {error}; remove it, and start the study again: fedtl server start"
            ) from error

    @property
    def log(self) -> RoundLog:
        """The history and the checkpoint."""
        return RoundLog(self.path, private=True)

    def state(self) -> ServerState:
        """
        Return the last checkpoint, or the start. Drops the line of a round whose checkpoint was not written. Raises ConfigError for a
        damaged checkpoint, and for one that is not there or is older than that: sites answer no round again that is long over.
        """
        lines, stored = self.log.lines(), self.log.stored_round
        if lines and lines[-1].round > stored + 1:
            raise ConfigError(
                f"{self.path / 'history.jsonl'} ends with round {lines[-1].round}, and the checkpoint in {self.path} is of round {stored}; "
                "restore both from one backup"
            )
        checkpoint = self.log.resume()
        return checkpoint.server if checkpoint else ServerState(0, load_file(self.path / "start.safetensors"))

    def alone(self) -> AbstractContextManager[None]:
        """Return a lock that one process holds at a time. Waits until a process of a crashed server has ended."""
        return lock_folder(self.path)


def log_before(study: HostedStudy, number: int) -> RoundLog:
    """Return the checkpoint of the state before round ``number``, where a site's update counted for the first time in that round."""
    return RoundLog(study.path / "before" / str(number), private=True)


def why_stopped(study: HostedStudy) -> str | None:
    """Return why a study was stopped; None where it was not."""
    text = read_text_if_any(study.path / STOPPED_FILE)
    return None if text is None else text.strip()
