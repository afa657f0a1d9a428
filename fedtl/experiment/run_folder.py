"""
The files of one run: what stands where, and how each is written so that a kill at any moment leaves it whole.

    experiment.toml  resolved, overrides included     history.jsonl  one line a round
    result.json      the numbers; there when done     report.html    self-contained
    shared.safetensors                                silos/<name>/  local.safetensors, inputs.json, test.safetensors,
                                                                    validation.json: figures that are its own
    checkpoint/state.pt   what --resume needs         transcript/   what the server saw, where [audit] keeps it
"""

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fedtl._util.files import write
from fedtl.data.preprocess import Inputs
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import dump, load
from fedtl.experiment.config.schema import Experiment
from fedtl.federation.rounds import ServerState
from fedtl.models.state import State
from fedtl.privacy import taint_metadata as marks
from fedtl.privacy.taint import Label, Labels

TRANSCRIPT = "transcript"  # the folder of what the server saw, where [audit] asks for it
RUNS = "runs"  # where runs go that were given no folder


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> "RunFolder":
        """Raises ConfigError where something stands already."""
        if path.is_file():
            raise ConfigError(f"--out: {path} is a file, not a folder")
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f"{path} is not empty; give another --out, or go on with it: --resume {path}")
        path.mkdir(parents=True, exist_ok=True)
        write(path / "experiment.toml", lambda file: file.write_text(dump(experiment)))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Raises ConfigError where there is no run."""
        if not (path / "experiment.toml").is_file():
            raise ConfigError(f"{path} is not a run folder: it has no experiment.toml")
        return cls(path)

    def discard_untouched(self) -> bool:
        """
        Remove the folder again where nothing but the experiment was written: a refused run leaves no trace. The
        folder ``runs`` above it, where it has nothing else, goes too. Returns whether there was no trace to keep.
        """
        if not self.path.exists():
            return True
        if [file.name for file in self.path.iterdir()] != ["experiment.toml"]:
            return False
        (self.path / "experiment.toml").unlink()
        self.path.rmdir()
        if self.path.parent.name == RUNS and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
        return True

    def experiment(self) -> Experiment:
        return load(str(self.path / "experiment.toml"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write(self.path / name, lambda file: file.write_text(text))

    def read_json(self, name: str) -> dict[str, Any]:
        """Raises ConfigError where the run did not get that far."""
        path = self.path / name
        if not path.is_file():
            raise ConfigError(
                f"{path} is not there yet: the run did not end; go on with --resume {self.path}"
                if not self.has("comparison.json")
                else f"{self.path} is a comparison; name one of its runs: {self._runs()}"
            )
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise _damaged(path, error) from error
        return content

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def history(self) -> list[dict[str, Any]]:
        path = self.path / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def append(self, line: Mapping[str, Any]) -> None:
        with (self.path / "history.jsonl").open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save(
        self, standing: ServerState, own: Mapping[str, tuple[State, Labels]], so_far: Mapping[str, float]
    ) -> None:
        """The checkpoint after a round: the server's standing, what every silo keeps, the sums so far."""
        content = {
            "round": standing.round,
            "shared": standing.shared,
            "memory": standing.memory,
            "locals": {name: local for name, (local, _) in own.items()},
            "labels": {name: {k: str(v) for k, v in its.items()} for name, (_, its) in own.items()},
            "so_far": dict(so_far),
        }
        write(self.path / "checkpoint" / "state.pt", lambda file: torch.save(content, file))

    def saved(self) -> tuple[ServerState, dict[str, tuple[State, Labels]], dict[str, float]] | None:
        """
        The last checkpoint, or None before the first round. Lines of the history that are younger than it
        belong to a round that is run again, and are dropped.
        """
        path = self.path / "checkpoint" / "state.pt"
        try:
            content = torch.load(path, weights_only=True) if path.exists() else None
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise _damaged(path, error) from error
        done = content["round"] if content else 0
        lines = [json.dumps(line) + "\n" for line in self._whole_lines() if line["round"] <= done]
        if lines or (self.path / "history.jsonl").exists():
            write(self.path / "history.jsonl", lambda file: file.write_text("".join(lines)))
        if not content:
            return None
        labels: dict[str, Labels] = {
            name: {k: Label(v) for k, v in its.items()} for name, its in content["labels"].items()
        }
        own = {name: (local, labels[name]) for name, local in content["locals"].items()}
        return ServerState(done, content["shared"], content["memory"]), own, content["so_far"]

    def _whole_lines(self) -> list[dict[str, Any]]:
        path = self.path / "history.jsonl"
        whole = path.read_text().split("\n")[:-1] if path.exists() else []  # a torn last line has no newline
        return [json.loads(line) for line in whole]

    def silo(self, name: str) -> Path:
        return self.path / "silos" / name

    def save_tensors(self, name: str, state: State, labels: Mapping[str, Label] | None = None) -> None:
        """``labels``, of these tensors and perhaps others: where they come from, for who starts from them."""
        about = None if labels is None else marks.metadata({key: labels[key] for key in state})
        write(self.path / name, lambda file: save_file(state, file, about))

    def tensors(self, name: str) -> State:
        """Raises ConfigError where the file is not there or damaged."""
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.path / name, error) from error

    def labels(self, name: str) -> dict[str, Label] | None:
        """Where a file's tensors come from; None where it does not say. Raises ModelError."""
        return marks.read(self.path / name)

    def _runs(self) -> str:
        runs = sorted(str(path) for path in (self.path / "runs").iterdir())
        return ", ".join(runs[:3]) + (", ..." if len(runs) > 3 else "")

    def save_inputs(
        self, silo: str, inputs: Inputs, classes: tuple[str, ...], shape: tuple[int, ...]
    ) -> None:
        self.write_json(f"silos/{silo}/inputs.json", {**asdict(inputs), "classes": classes, "shape": shape})

    def inputs(self, silo: str) -> tuple[Inputs, tuple[str, ...], tuple[int, ...]]:
        """Raises ConfigError for a silo that is not in the run."""
        if not (self.silo(silo) / "inputs.json").is_file():
            known = sorted(path.name for path in (self.path / "silos").glob("*"))
            raise ConfigError(f"--silo {silo!r}: the run has {', '.join(known) or 'no finished silo'}")
        content = self.read_json(f"silos/{silo}/inputs.json")
        classes, shape = tuple(content.pop("classes")), tuple(content.pop("shape"))
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return Inputs(**fields), classes, shape


def _damaged(path: Path, error: Exception) -> ConfigError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
    return ConfigError(f"{path} is missing or damaged ({reason}); repeat the run with another --out")
