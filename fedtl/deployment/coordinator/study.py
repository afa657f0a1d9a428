"""
The folder of a study at the coordinator. It holds tensors by name, and neither data nor a model.

    plan.json            rounds, seed, minimum, server step, roles       start.safetensors      the first shared tensors
    history.jsonl        a line for each round                           checkpoint/state.pt    after the last round
    shared.safetensors   and result.json: when the study is done         stopped                why it was stopped
"""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fedtl._util.files import lock_folder, write_bytes, write_file
from fedtl.deployment.coordinator.study_files import RoundLine, StudyPlan
from fedtl.errors import ConfigError
from fedtl.federation.rounds import ServerState
from fedtl.models.state import State

STOPPED_FILE = "stopped"  # says why a study was stopped; it is not resumed while the file is there
SERVER_FOLDER_VARIABLE = "FEDTL_SERVER"  # the environment variable that tells a ServerApp its folder


@dataclass(frozen=True)
class HostedStudy:
    path: Path

    @classmethod
    def create(cls, path: Path, plan: StudyPlan, start: State) -> "HostedStudy":
        """Create the folder, or open it where the very same study is in it. Raises ConfigError where another one is."""
        study = cls(path)
        content = plan.to_json()
        if (path / "plan.json").is_file():
            if json.loads((path / "plan.json").read_text()) != content:
                raise ConfigError(f"{path} holds another study; choose another name with --study NAME")
            return study
        write_file(path / "start.safetensors", lambda file: save_file(start, file), private=True)
        text = json.dumps(content, indent=1) + "\n"
        write_bytes(path / "plan.json", text.encode(), private=True)
        return study

    @property
    def plan(self) -> StudyPlan:
        """Raises ConfigError where the file is missing or damaged."""
        path = self.path / "plan.json"
        try:
            return StudyPlan.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not the plan of a study: {error!r}") from error

    @property
    def done(self) -> bool:
        return (self.path / "result.json").is_file()

    def history(self) -> list[RoundLine]:
        path = self.path / "history.jsonl"
        lines = (
            path.read_text().split("\n")[:-1] if path.exists() else []
        )  # an incomplete last line has no newline
        return [RoundLine(**json.loads(line)) for line in lines]

    def state(self) -> ServerState:
        """Return the last checkpoint, or the start. Drops lines of the history that are later than the checkpoint."""
        path = self.path / "checkpoint" / "state.pt"
        if not path.exists():
            state = ServerState(0, load_file(self.path / "start.safetensors"))
        else:
            content = torch.load(path, weights_only=True)
            state = ServerState(content["round"], content["shared"], content["memory"])
        kept = [line for line in self.history() if line.round <= state.round]
        if kept or (self.path / "history.jsonl").exists():
            text = "".join(_text(line) for line in kept)
            write_bytes(self.path / "history.jsonl", text.encode(), private=True)
        return state

    def save(self, line: RoundLine, state: ServerState) -> None:
        """Write the line first, then the checkpoint: ``state`` drops a line without a checkpoint."""
        self.append(line)
        content = {"round": state.round, "shared": state.shared, "memory": state.memory}
        write_file(
            self.path / "checkpoint" / "state.pt", lambda file: torch.save(content, file), private=True
        )

    def alone(self) -> AbstractContextManager[None]:
        """One process at a time. Waits until a process of a crashed server has ended."""
        return lock_folder(self.path)

    def append(self, line: RoundLine) -> None:
        append_durably(self.path / "history.jsonl", _text(line))


def append_durably(path: Path, text: str) -> None:
    """Append to a file that only its owner can read. On disk when this returns."""
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _text(line: RoundLine) -> str:
    return json.dumps(asdict(line), allow_nan=False) + "\n"
