"""The backbone that a new silo receives: of a run's folder, or of a model that ``fedtl export`` wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import merge_labels
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.config.resolve import training_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.final_models import frozen_tensors
from fedtl.experiment.initial_weights import read_first_weights
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.run_trainer import run_trainer, with_start
from fedtl.methods.heads.relation import RELATION, relation_module
from fedtl.methods.sets import model_part
from fedtl.models.net import Shape
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.training.trainer import Trainer

MAX_INPUTS = 1 << 24  # numbers in one input of a model that somebody exported
NOTHING_SHARED = (
    "shares no body, so a new silo would receive nothing; onboard from a run of fedtl, fedavg or protonet"
)


@dataclass(frozen=True)
class Backbone:
    """
    ``shared``: the model's tensors that a new silo receives. ``classes``: the labels of a shared head, () where each silo keeps
    its own head. ``labels``: every label of the silos that trained it, whose names are ``trained`` (not known of an exported model).
    """

    experiment: Experiment
    trainer: Trainer
    shape: Shape
    columns: tuple[str, ...]
    shared: State
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    trained: tuple[str, ...]
    where: str

    def state(self, data: SiloDataset) -> State:
        """Return every tensor of the model at the new silo, with the exact statistics of its training inputs."""
        initial = model_part(self.trainer.initial(data.width))
        received = {
            name: tensor
            for name, tensor in self.shared.items()
            if name in initial and initial[name].shape == tensor.shape
        }
        return self.trainer.adapt(initial | received, data.inputs, data.width)

    @property
    def relation(self) -> nn.Module | None:
        """The relation head's network, if the backbone was trained with one."""
        prefix = f"aux.{RELATION}."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.shared.items()
            if name.startswith(prefix)
        }
        if not own:
            return None
        module = relation_module(self.trainer.spec.features)
        module.load_state_dict(own)
        return module.eval()


def read_backbone(path: Path) -> Backbone:
    """Read the folder of a run, or the folder (or a weights file in it) of fedtl export. Raises ConfigError or ModelError."""
    folder = path.parent if path.is_file() else path
    if (folder / "model.json").is_file():
        _check_one_label(read_description(folder / "model.json"), folder)
        return of_export(path, folder)
    if path.is_file():
        raise ConfigError(
            f"{path}: a weights file needs model.json next to it, as fedtl export writes it; or give the folder of a run"
        )
    return _of_run(RunFolder.open(path))


def _of_run(folder: RunFolder) -> Backbone:
    folder.read_json("result.json")  # raises where the run did not end
    experiment = folder.experiment()
    trained = tuple(sorted(one.name for one in (folder.path / "silos").iterdir()))
    known = {name: folder.inputs(name) for name in trained}
    inputs, _, shape = known[trained[0]]
    trainer = with_start(
        run_trainer(experiment, shape, training_of(experiment.train)), frozen_tensors(folder)
    )
    _check(experiment, str(folder.path))
    roles = trainer.partition.roles
    shared = model_part(folder.tensors("shared.safetensors"))
    if not any(roles.get(name) in (Role.BODY, Role.ADAPTER) for name in shared):
        raise ConfigError(f"{folder.path}: method {experiment.method.name!r} {NOTHING_SHARED}")
    # Where the head is shared, every silo has the labels of all.
    classes = () if trainer.method.head_is_local else known[trained[0]][1]
    labels = merge_labels([classes for _, classes, _ in known.values()])
    where = str(folder.path)
    return Backbone(experiment, trainer, shape, inputs.columns, shared, classes, labels, trained, where)


def of_export(path: Path, folder: Path) -> Backbone:
    """Return the backbone of an exported model. ``path``: the folder, or a file of weights in it. Raises ConfigError or ModelError."""
    about = read_description(folder / "model.json")
    if path.is_dir() and "mix" in about:
        files = ", ".join(str(folder / name) for name in about["mix"])
        raise ConfigError(f"{path} is a mix of several models; give the file of one of them: {files}")
    inputs, shape = about["inputs"], tuple(about["shape"])
    model = {"name": about["model"], "settings": about.get("settings", {})}
    if "pixel_scale" in about:
        model["pixels"] = about["pixel_scale"]
    data = {key: inputs[key] for key in ("size", "channels")}
    data |= {
        key: inputs[key] for key in ("kind", "pixel_range") if inputs.get(key, "auto") not in ("auto", [])
    }
    data |= {"source": "memory"} if len(data) > 2 else {}  # which can have images and volumes
    experiment = parse_experiment({"data": data, "model": model, "method": {"name": "fedavg"}})
    trainer = run_trainer(experiment, shape)
    file = path if path.is_file() else folder / "model.safetensors"
    classes = tuple(about["classes"])
    state = read_first_weights(file, trainer.spec, max(len(classes), 1)).state
    columns = tuple(inputs["columns"])
    return Backbone(experiment, trainer, shape, columns, state, classes, classes, (), str(path))


def read_description(path: Path) -> Mapping[str, Any]:
    """Return what model.json says, checked. Raises ConfigError."""
    try:
        about: Mapping[str, Any] = json.loads(path.read_text())
        _ = (about["inputs"]["size"], about["inputs"]["channels"], about["inputs"]["columns"], about["model"])
        _check_sizes(about["shape"], about["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); export the model again") from error
    if "adapters" in about:
        raise ConfigError(
            f"{path}: a model with bottleneck adapters cannot be onboarded; give the folder of its run"
        )
    if "input_scale" in about:
        raise ConfigError(f"{path}: a model with data.scale = 'dp' cannot be onboarded; export another run")
    return about


def _check_one_label(about: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigError for the export of a model without one label a row, or whose inputs are tokens."""
    if about.get("task") == "segmentation":
        raise ConfigError(
            f'{folder}: its task is "segmentation", and few-shot heads need one label a row; data.late onboards silos of any task'
        )
    if any(column["kind"] == "tokens" for column in about.get("table", {}).get("columns", {}).values()):
        raise ConfigError(
            f"{folder}: a model of text cannot be onboarded; start a run with model.weights = its folder"
        )


def _check_sizes(shape: Any, classes: Any) -> None:
    """Raise ValueError for a shape that no model of a few dimensions and MAX_INPUTS numbers has, and for labels that are not texts."""
    dimensions = isinstance(shape, list) and 1 <= len(shape) <= 4
    if (
        not dimensions
        or not all(type(size) is int and size > 0 for size in shape)
        or prod(shape) > MAX_INPUTS
    ):
        raise ValueError(f"shape = {shape!r:.60}")
    if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
        raise ValueError("classes is not a list of texts")


def _check(experiment: Experiment, where: str) -> None:
    if experiment.data.scale == "dp":
        raise ConfigError(
            f"{where}: its first layer has the released scale of its silos (data.scale = 'dp'), which a new silo does not have; "
            "run with data.scale = a file of constants"
        )
    if experiment.data.task != "classification":
        raise ConfigError(
            f'{where}: data.task = "{experiment.data.task}"; few-shot heads need classes. data.late onboards silos of any task'
        )
