"""Use the result of a run: predictions of a silo's model for new inputs, and that model as files for other programs."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedtl._util.records import to_plain
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.source import Array
from fedtl.errors import ConfigError, DataError, first_line
from fedtl.experiment.config.resolve import silo_model
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.export_columns import describe_columns
from fedtl.experiment.export_script import write_script
from fedtl.experiment.export_text import checked_trace, write_text_folder
from fedtl.experiment.final_models import common_labels, load_final_model
from fedtl.experiment.model_card import write_card
from fedtl.experiment.new_inputs import prepared_inputs
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.run_trainer import run_trainer
from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import mixed_scores
from fedtl.models.adapters import merged, merged_into
from fedtl.models.dp_norm import restore_names, restore_norms
from fedtl.models.folder_files import HERE, is_folder_name
from fedtl.models.mixed import MixedNet
from fedtl.models.net import ModelSpec, tied_names
from fedtl.models.pixels import pixel_scale
from fedtl.privacy import taint_metadata
from fedtl.privacy.taint import Label, combined_labels
from fedtl.training.at_home import FinalModel, alone_trainer, trainer_of
from fedtl.training.tent import tent_scores


class SiloModel:
    """A silo's final model: the one that was scored on its test rows."""

    def __init__(self, folder: RunFolder, silo: str) -> None:
        """Load the model. Raises ConfigError where the run did not end, has no such silo, or a file is damaged."""
        self.silo, self.folder = silo, folder
        folder.read_json("result.json")
        self.inputs, self.classes, self.shape = folder.inputs(silo)
        self.experiment: Experiment = folder.experiment()
        self.settings = silo_model(self.experiment, silo)
        self.trainer = run_trainer(self.experiment, self.shape, model=self.settings)
        self.plan: ModelSpec = self.trainer.spec
        nothing = Dataset(torch.empty(0), torch.empty(0))
        self.task = self.experiment.data.predicted
        self.data = SiloDataset(
            nothing, nothing, self.classes, None, self.inputs.y_mean, self.inputs.y_std, task=self.task
        )
        self.headless = silo in self.experiment.data.unlabelled and self.trainer.method.head_is_local
        names = self.trainer.loop.roles
        labels = (common_labels(folder), folder.labels(f"silos/{silo}/local.safetensors"))
        self.labels = None if labels[0] is None or labels[1] is None else {**labels[0], **labels[1]}
        self.final: FinalModel = load_final_model(folder, silo, names)

    def scores(self, x: Array, tent: bool = False) -> Tensor:
        """
        Return the outputs [N, classes], or in regression [N, 1] in the unit of the label, for rows as a source stores them.
        ``tent``: by models that adapt to these rows (``training.tent``). Raises DataError, and ConfigError where a model
        cannot adapt.
        """
        self.check_head()
        inputs = self.prepared(x)
        scores = self._adapting_scores(inputs) if tent else self.final.scores(self.trainer, inputs, self.data)
        if len(broken := torch.nonzero(~scores.isfinite().flatten(1).all(1))):
            raise DataError(
                f"the model's outputs for {len(broken)} of {len(x)} rows are not finite (the first is row {int(broken[0])}); its "
                "training diverged, or their values are far from those that it was trained on"
            )
        return scores

    def check_head(self) -> None:
        """Raise ConfigError where the head was not trained, because the silo has no labels."""
        if self.headless:
            raise ConfigError(
                f"silo {self.silo} has no labels, so the head of its model was not trained; fedtl onboard makes one from few labels, and "
                "fedtl embed writes features"
            )

    def prepared(self, x: Array) -> Tensor:
        """Return rows as a source stores them as the silo's training inputs were prepared [N, ...]. Raises DataError."""
        return prepared_inputs(x, self.inputs, self.shape)

    def _adapting_scores(self, inputs: Tensor) -> Tensor:
        if not self.classes:
            raise ConfigError(
                "--adapt tent lowers the entropy of class probabilities, and this model predicts values"
            )
        parts: list[Tensor] = []
        for member in self.final.members:
            net = trainer_of(member, self.trainer).net(self.data.width)
            net.load_state_dict(member.state)
            parts.append(tent_scores(net, inputs, self.trainer.device))
        return mixed_scores(parts, tuple(member.weight for member in self.final.members), self.task)

    def labels_of(self, member: str) -> Mapping[str, Label] | None:
        """Return the provenance of the tensors of one model of the mix; None where the run does not record it."""
        if self.labels is None or member == self.final.main.name != Candidate.OWN:
            return self.labels
        return dict.fromkeys(alone_trainer(self.trainer).loop.roles, Label.LOCAL)

    def nets(self) -> dict[str, nn.Module]:
        """
        Return the net of each model of the mix by its name, in evaluation mode, with ordinary norms and without low-rank adapters,
        which are part of the weights; see ``net``.
        """
        nets: dict[str, nn.Module] = {}
        for member in self.final.members:
            net = trainer_of(member, self.trainer).net(self.data.width)
            net.load_state_dict(member.state)
            nets[member.name] = merged(restore_norms(net)).eval()
        return nets

    def net(self) -> nn.Module:
        """Return the whole net, or the whole mix, in evaluation mode. In regression its output is in the silo's own scale."""
        nets, weights = self.nets(), [member.weight for member in self.final.members]
        if len(nets) == 1:
            return next(iter(nets.values()))
        return MixedNet(list(nets.values()), weights, self.task).eval()


Prediction = dict[
    str, str | int | float
]  # the row or file, the predicted value or label, and each label's probability


def prediction_rows(
    model: SiloModel, scores: Tensor, files: Sequence[str], column: str = "file"
) -> Iterator[Prediction]:
    """Yield one dict for each prediction: row or file, and what the task answers. ``column``: the name of what ``files`` hold."""
    for number, answer in enumerate(model.task.answers(scores, model.classes)):
        which: Prediction = {column: files[number]} if files else {"row": number}
        yield which | dict(answer)


def write_csv(lines: Iterator[Prediction], file: TextIO) -> int:
    """Write the lines as CSV. Returns how many rows were written."""
    written = 0
    for line in lines:
        writer = csv.DictWriter(file, list(line))
        if not written:
            writer.writeheader()
        writer.writerow(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in line.items()}
        )
        written += 1
    return written


def check_new_folder(out: Path) -> None:
    """Raise ConfigError where the folder has something in it."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError(f"--out: {out} is not empty; name a new folder")


def export_model(model: SiloModel, out: Path, about: Mapping[str, Any] | None = None) -> list[str]:
    """
    One ordinary PyTorch model in a new folder: ``model.safetensors`` under its library's own names, ``model.json``
    (labels, inputs), ``predict.py``, which needs no fedtl, and ``model.onnx``, where these can be made. Of a mix of models each has a file, ``model.json`` has their
    weights, and ``model.onnx`` is the whole mix; ``README.md`` is a model card. ``about``: further keys of ``model.json``. Returns lines that say what was written.
    """
    model.check_head()
    check_new_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    written = _save_weights(model, out)
    description: dict[str, Any] = {
        "model": HERE if is_folder_name(model.settings.name) else model.settings.name,
        "settings": model.settings.settings,
        "classes": model.classes,
        "task": model.task.name,
        "outputs": model.task.outputs(model.classes),
        "shape": model.shape,
        "pixels": _range_in_words(model),
        "inputs": asdict(model.inputs),
        **_pixel_scale(model),
    }
    if model.inputs.columns:
        description["table"] = to_plain(describe_columns(model.experiment.data, model.inputs))
    if model.experiment.data.scale == "dp":
        description["input_scale"] = (
            "first layer: (x - running_mean) / sqrt(running_var + 1e-5) by column or channel"
        )
    adapters = model.settings.adapters
    if adapters is not None and adapters.kind == "bottleneck":  # others are part of the weights
        description["adapters"] = adapters.model_dump()
    members = model.final.members
    description["main"] = list(written)[[one.name for one in members].index(model.final.main.name)]
    if len(members) > 1:
        description["mix"] = {file: member.weight for file, member in zip(written, members, strict=True)}
    description |= about or {}
    (out / "model.json").write_text(json.dumps(description, indent=1) + "\n")
    return [
        *(f"{out / file}: {count} tensors" for file, count in written.items()),
        *write_text_folder(model, out),
        f"{out / 'model.json'}: labels and inputs",
        write_script(model, out, written),
        _onnx(model, out),
        *write_card(model, out, about),
    ]


def _range_in_words(model: SiloModel) -> str:
    """Return how pixels become inputs of the network."""
    if model.inputs.pixel_range:
        low, high = model.inputs.pixel_range
        return f"clipped to {low:g}..{high:g}, (x - {low:g}) / {high - low:g} * 2 - 1"
    return "x / 127.5 - 1 for 0..255"


def _pixel_scale(model: SiloModel) -> dict[str, Any]:
    """Return the keys of a model that was trained on pixels of another scale than -1..1."""
    if isinstance(scale := model.settings.pixels, str) or not pixel_scale(scale).changes:
        return {}
    about = "(x / 255 - mean) / std for 0..255, by pixel_scale; model.onnx does this itself, and takes x / 127.5 - 1"
    return {"pixels": about, "pixel_scale": scale}


def _save_weights(model: SiloModel, out: Path) -> dict[str, int]:
    """Write the weights of each model of the mix, and return the number of tensors by file. One model: model.safetensors."""
    named, counts = model.plan.library_name, dict[str, int]()
    for name, net in model.nets().items():
        tied = tied_names(net)
        used = {
            key: model.plan.library_tensor(key, one).clone(memory_format=torch.contiguous_format)
            for key, one in nn.Module.state_dict(
                net
            ).items()  # every name of tied weights, as the library's model has
            if not key.startswith("aux.")
        }
        labels, about = model.labels_of(name), None
        if labels is not None:
            labels = _labels_of_merged(model.trainer.net(model.data.width), labels)
            # num_batches_tracked may have been recreated here; it then depends on no data.
            of = {named(key): labels.get(tied.get(key, key), Label.PUBLIC) for key in used}
            about = taint_metadata.label_metadata(of)
        file = "model.safetensors" if len(model.final.members) == 1 else f"{name}.safetensors"
        save_file({named(key): tensor for key, tensor in used.items()}, out / file, about)
        counts[file] = len(used)
    return counts


def _labels_of_merged(net: nn.Module, labels: Mapping[str, Label]) -> Mapping[str, Label]:
    """Return the provenance of an exported net's tensors: of a merged weight the least protected one of its parts."""
    named = restore_names(net, labels)
    parts = [{weight: named[part]} for part, weight in merged_into(net).items() if part in named]
    return combined_labels([named, *parts])


def _onnx(model: SiloModel, out: Path) -> str:
    path = out / "model.onnx"
    example = torch.zeros(2, *model.shape)
    try:
        net = model.net().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        with checked_trace(model, net, path):
            torch.onnx.export(
                net,
                (example,),
                str(path),
                input_names=["x"],
                output_names=["scores"],
                dynamic_axes={"x": {0: "n"}, "scores": {0: "n"}},
                dynamo=False,
            )
    except Exception as error:  # an exporter fails in as many ways as there are operators
        path.unlink(missing_ok=True)
        reason = first_line(error)
        return f"no model.onnx: {reason}"
    return f"{path}: input x [n, {', '.join(map(str, model.shape))}], output scores"
