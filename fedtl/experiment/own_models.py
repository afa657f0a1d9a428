"""
The silos' own models while a run or a comparison needs them: each is trained once, because it does not depend on the method,
and not once more after an interruption.
"""

import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from safetensors.torch import load_file, save_file

from fedtl._util.files import write_file
from fedtl.experiment.config.schema import Experiment
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.privacy.taint import Label
from fedtl.privacy.taint_metadata import label_metadata
from fedtl.training.at_home import OwnModel, own_model
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

OWN = "own"  # folder of a comparison, or of a run by itself, until it is finished


@dataclass(frozen=True)
class StoredOwnModels:
    """Finds a silo's own model in a folder, or trains it and writes it there. ``key``: all settings that it depends on."""

    folder: Path
    key: str

    def __call__(self, trainer: Trainer, silo: Silo, task: Task) -> State:
        path = self.folder / self.key / f"{silo.name}-{silo.data.width}.safetensors"
        if path.is_file():
            return load_file(path)
        state = own_model(trainer, silo, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = label_metadata(dict.fromkeys(state, Label.LOCAL))
        write_file(path, lambda file: save_file(state, file, labels))
        return state


def stored_own_models(folder: Path, experiment: Experiment, device: str) -> StoredOwnModels:
    """Return the store for the runs of an experiment that differ in the method alone."""
    settings = {
        **experiment.model_dump(mode="json", include={"seed", "rounds", "data", "model", "train"}),
        "tune": experiment.method.tune.model_dump(mode="json"),
        "threads": experiment.engine.threads,
        "models": {name: own.model_dump(mode="json")["model"] for name, own in experiment.silo.items()},
        "private": experiment.privacy is not None,
        "device": device,
    }
    key = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return StoredOwnModels(folder, key)


def own_models_of_run(folder: Path, experiment: Experiment, device: str) -> OwnModel:
    """Return what finds the own models of a run by itself in its folder; on a cluster, whose nodes have no such folder, none."""
    if experiment.engine.name == "ray":
        return own_model
    return stored_own_models(folder / OWN, experiment, device)


def remove_own_models(folder: Path) -> None:
    """Remove the own models of a finished run or comparison; each silo's final model has what it uses of them."""
    shutil.rmtree(folder / OWN, ignore_errors=True)
