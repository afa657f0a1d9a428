"""Continue a run with a wider model: ``fedtl grow`` writes its shared tensors in the shapes of the wider net (Net2Net)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fedtl._util.files import write_file
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of, model_arguments, model_of
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.sets import model_part
from fedtl.models.widen import widened
from fedtl.privacy import taint_metadata

SHARED = "shared.safetensors"


def grow(folder: RunFolder, settings: Mapping[str, Any], out: Path) -> str:
    """
    Write the shared tensors of a finished run for its model with these settings changed, with the provenance of the tensors that they
    are made of, and return one line on what was written. Raises ConfigError or ModelError.
    """
    if out.exists():
        raise ConfigError(f"--out: {out} exists; name a new file")
    if not settings:
        raise ConfigError(
            "name what becomes wider, for example --set widths=[64,128,128], or for mlp --set width=128"
        )
    experiment, silos = folder.experiment(), sorted(folder.result().silos)
    if experiment.privacy is not None:
        raise ConfigError(
            "the model of a private run has other normalisation layers, which cannot be made wider"
        )
    if experiment.model.adapters is not None:
        raise ConfigError(
            "a run with model.adapters shares no body; export a silo's model instead, whose weights include the adapters"
        )
    _, classes, shape = folder.inputs(silos[0])
    old = experiment.model.model_copy(update={"weights": ""})
    new = old.model_copy(update={"settings": {**old.settings, **settings}})
    model_arguments(new)
    width, terms = experiment.data.predicted.width(classes), method_of(experiment.method).every_term
    if any(term.modules(1, shape) for term in terms):
        raise ConfigError(
            f"method {experiment.method.name!r} adds modules to the model, which cannot be made wider"
        )
    narrow, wide = (model_of(one, shape, experiment.seed).net(width) for one in (old, new))
    state = widened(narrow, wide, model_part(folder.tensors(SHARED)), experiment.seed)
    labels = folder.labels(SHARED)
    about = None if labels is None else taint_metadata.label_metadata({name: labels[name] for name in state})
    ordered = {name: tensor.contiguous() for name, tensor in sorted(state.items())}
    write_file(out, lambda file: save_file(ordered, file, about))
    before, after = (sum(weight.numel() for weight in net.parameters()) for net in (narrow, wide))
    return f"{out}: {len(state)} shared tensors; a model of {after:,} weights in place of {before:,}"
