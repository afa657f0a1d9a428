"""
The files of one run, each written atomically, so that a killed process never leaves an incomplete file.

    experiment.toml  settings, with overrides         history.jsonl  one line a round
    result.json      written when the run is done     report.html    self-contained
    shared.safetensors    frozen.safetensors          silos/<name>/  local.safetensors, inputs.json, test.safetensors,
                                                                    mix.json, validation.json: metrics on validation rows
    checkpoint/state.pt   for --resume                transcript/   messages the server saw, where [audit] asks for it
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fedtl._util.files import write_file, write_json
from fedtl._util.records import Record, from_plain
from fedtl.data.preprocess import Inputs
from fedtl.data.target_encoding import TargetTable
from fedtl.errors import ConfigError, first_line
from fedtl.experiment.config.custom import NO_VALUES, CustomValues, passed_values
from fedtl.experiment.config.load import load_experiment, to_toml
from fedtl.experiment.config.schema import Experiment
from fedtl.federation.round_log import RoundLog
from fedtl.models.state import State
from fedtl.privacy import taint_metadata
from fedtl.privacy.taint import Label
from fedtl.results.comparison import Comparison
from fedtl.results.run import HistoryLine, Mix, RunResult
from fedtl.results.transferability import SiloTransfer, Transferability
from fedtl.results.tuning import TrialResult

TRANSCRIPT = "transcript"  # folder of the messages that the server saw
RUNS = "runs"  # default folder for runs


@dataclass(frozen=True)
class RunFolder:
    """``values``: methods and a model that a Python program passed, which no file holds."""

    path: Path
    values: CustomValues = NO_VALUES

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> "RunFolder":
        """Make the folder and write ``experiment.toml``. Raises ConfigError where the folder is not empty."""
        if path.is_file():
            raise ConfigError(f"--out: {path} is a file; name a new folder")
        if path.exists() and any(path.iterdir()):
            raise ConfigError(
                f"{path} is not empty; choose another folder (--out), or continue the run: fedtl run --resume {path}"
            )
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.save_experiment(experiment)
        return folder

    @classmethod
    def open(cls, path: Path, values: CustomValues = NO_VALUES) -> "RunFolder":
        """Return the run in an existing folder. Raises ConfigError where there is none."""
        if not (path / "experiment.toml").is_file():
            raise ConfigError(f"{path} is not a run folder: it has no experiment.toml")
        return cls(path, values)

    def discard_untouched(self) -> bool:
        """
        Remove the folder if it holds nothing but ``experiment.toml``, and the folder ``runs`` above it if it is then empty.
        Returns whether the folder is gone.
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
        """The experiment, with the values that were passed to ``open``. Raises ConfigError where the run had others."""
        return self.values.put_back(load_experiment(str(self.path / "experiment.toml")))

    def save_experiment(self, experiment: Experiment) -> None:
        """Write ``experiment.toml``."""
        passed = passed_values(experiment)
        comment = f"# A Python program passed {', '.join(passed)}: this file alone does not repeat what used that.\n"
        self.write_text("experiment.toml", (comment if passed else "") + to_toml(experiment))

    def result(self) -> RunResult:
        """The result of the run. Raises ConfigError where the run did not end, or the file is damaged."""
        return self._record("result.json", RunResult)

    def comparison(self) -> Comparison:
        """The result of the comparison. Raises ConfigError where it did not end, or the file is damaged."""
        return self._record("comparison.json", Comparison)

    def trial(self) -> TrialResult:
        """The result of a trial. Raises ConfigError where it did not end, or the file is damaged."""
        return self._record("trial.json", TrialResult)

    def transfer(self) -> SiloTransfer:
        """One silo's part of a transferability. Raises ConfigError where it did not end, or the file is damaged."""
        return self._record("transfer.json", SiloTransfer)

    def transferability(self) -> Transferability:
        """The result of a transferability. Raises ConfigError where it did not end, or the file is damaged."""
        return self._record("transferability.json", Transferability)

    def validation(self, silo: str) -> dict[str, float] | None:
        """Metrics of the silo's final model on its validation rows; None for a silo that is not in the run."""
        name = f"silos/{silo}/validation.json"
        return self.read_json(name) if self.has(name) else None

    def mix(self, silo: str) -> Mix | None:
        """The models that the silo averages; None where it uses one. Raises ConfigError where the file is damaged."""
        name = f"silos/{silo}/mix.json"
        return self._record(name, Mix) if self.has(name) else None

    def write_json(self, name: str, content: object) -> None:
        """Write a record (see ``records``) or plain values."""
        write_json(self.path / name, content)

    def write_text(self, name: str, text: str) -> None:
        write_file(self.path / name, lambda file: file.write_text(text))

    def _record(self, name: str, kind: type[Record]) -> Record:
        content = self.read_json(name)
        try:
            return from_plain(kind, content)
        except ValueError as error:
            raise _damaged(self.path / name, error) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Read plain values. Raises ConfigError where the run has not written the file yet, or it is damaged."""
        path = self.path / name
        if not path.is_file():
            raise ConfigError(
                f"{path} does not exist yet: the run is not finished; continue it with --resume {self.path}"
                if not self.has("comparison.json")
                else f"{self.path} is a comparison; give one of its runs instead: {self._runs()}"
            )
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise _damaged(path, error) from error
        return content

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    @property
    def log(self) -> RoundLog:
        """The history and the checkpoint."""
        return RoundLog(self.path)

    def history(self) -> list[HistoryLine]:
        return self.log.lines()

    def silo(self, name: str) -> Path:
        return self.path / "silos" / name

    def save_tensors(self, name: str, state: State, labels: Mapping[str, Label] | None = None) -> None:
        """Write tensors. ``labels``: the provenance of these tensors, and perhaps of others; written into the file."""
        about = None if labels is None else taint_metadata.label_metadata({key: labels[key] for key in state})
        write_file(self.path / name, lambda file: save_file(state, file, about))

    def tensors(self, name: str) -> State:
        """Read tensors. Raises ConfigError where the file does not exist or is damaged."""
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.path / name, error) from error

    def labels(self, name: str) -> dict[str, Label] | None:
        """Return the provenance of a file's tensors; None where it does not record it. Raises ModelError."""
        return taint_metadata.read_labels(self.path / name)

    def _runs(self) -> str:
        """Return the first runs that trained a model, for a message."""
        runs = sorted(
            str(path) for path in (self.path / "runs").iterdir() if not path.name.startswith("constant-")
        )
        return ", ".join(runs[:3]) + (", ..." if len(runs) > 3 else "")

    def save_inputs(
        self, silo: str, inputs: Inputs, classes: tuple[str, ...], shape: tuple[int, ...]
    ) -> None:
        self.write_json(f"silos/{silo}/inputs.json", {**asdict(inputs), "classes": classes, "shape": shape})

    def inputs(self, silo: str) -> tuple[Inputs, tuple[str, ...], tuple[int, ...]]:
        """Return inputs, classes and input shape. Raises ConfigError for a silo that is not in the run."""
        if not (self.silo(silo) / "inputs.json").is_file():
            known = sorted(path.name for path in (self.path / "silos").glob("*"))
            raise ConfigError(
                f"silo {silo!r} is not in the run; it has {', '.join(known) or 'no finished silo'}"
            )
        content = self.read_json(f"silos/{silo}/inputs.json")
        classes, shape = tuple(content.pop("classes")), tuple(content.pop("shape"))
        tables = tuple(from_plain(TargetTable, table) for table in content.pop("tables", []))
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return Inputs(**fields, tables=tables), classes, shape


def _damaged(path: Path, error: Exception) -> ConfigError:
    reason = first_line(error)[:80]
    return ConfigError(f"{path} is missing or damaged ({reason}); repeat the run with another --out")
