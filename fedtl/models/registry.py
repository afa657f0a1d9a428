"""The table of models, and a model by its name."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import nn

from fedtl._util.registry import Registry
from fedtl.errors import ModelError
from fedtl.models import builtin, libraries, sequences, unet
from fedtl.models.custom import Build, FixedModel
from fedtl.models.dp_norm import convert_norms
from fedtl.models.folder_files import is_folder_name
from fedtl.models.libraries import TORCHVISION, LibraryOptions
from fedtl.models.net import ModelSpec, Shape, seeded_build
from fedtl.models.own_builds import check_own_build
from fedtl.models.split import split_at_classifier
from fedtl.models.text_folder import folder_spec

MODELS: Registry[Build] = Registry(
    "fedtl.models",
    {
        f.__name__: f
        for f in (
            *(builtin.convnet, builtin.convnet_gn, builtin.mlp, builtin.linear),
            *(builtin.digitmodel, builtin.resnet20),
            *(sequences.convnet1d, sequences.gru),
            unet.unet,
        )
    },
)
NO_SETTINGS: Mapping[str, Any] = {}


def check_model_name(name: str, at: str = "model.name") -> None:
    """Raise ModelError unless the name is in the table, or the name of a model of timm or torchvision."""
    if (
        name in MODELS
        or name.startswith(TORCHVISION)
        or is_folder_name(name)
        or libraries.is_hub_name(name)
        or libraries.is_timm(name)
    ):
        return
    near = [*get_close_matches(name, list(MODELS), 1), *libraries.near_timm(name)[:2]]
    raise ModelError(
        f"{at} = {name!r} is unknown; "
        + (f"did you mean {' or '.join(map(repr, near))}? Otherwise " if near else "")
        + "list all names with: fedtl models"
    )


def with_private_norms(spec: ModelSpec) -> ModelSpec:
    """Return the model with normalisation layers that private training supports (SiloNorm). Raises ModelError."""
    return replace(spec, body=convert_norms(spec.body))


def model_spec(
    name: str,
    shape: Shape,
    seed: int,
    pretrained: bool = False,
    settings: Mapping[str, Any] = NO_SETTINGS,
    options: LibraryOptions | None = None,
) -> ModelSpec:
    """
    Return the model of this name for inputs of ``shape``. Its initial weights depend only on ``seed``; with
    ``pretrained`` they are the library's. ``options``: how a library's model is built. ``settings``: parameters of the model's function in the table, checked. Raises
    ModelError.
    """
    check_model_name(name)
    options = replace(options or LibraryOptions(), pretrained=pretrained)
    if is_folder_name(name):
        return folder_spec(name, shape, seed, options.checkpointing)
    if name in MODELS:
        if options.checkpointing:
            raise ModelError(
                f"model.checkpointing: {name} does not offer it, and models of timm do; remove it"
            )
        make = partial(MODELS[name], **settings)
    elif name.startswith(TORCHVISION):
        make = partial(libraries.torchvision_model, name.removeprefix(TORCHVISION), options=options)
    else:
        make = partial(libraries.timm_model, name, options=options)
    return custom_spec(make, name, shape, seed)


def custom_spec(make: Build, name: str, shape: Shape, seed: int) -> ModelSpec:
    """Return the model that ``make`` builds for inputs of ``shape``. ``name``: for messages. Raises ModelError."""
    classifier = ""

    def build() -> nn.Module:
        nonlocal classifier
        module, classifier = _module_and_path(make(shape))
        return module

    try:
        model = seeded_build(seed, build)
        if not isinstance(make, FixedModel):
            check_own_build(model, build, shape, seed)
        return split_at_classifier(model, classifier, shape, seed)
    except ModelError as error:
        text = str(error)
        raise ModelError(text if text.startswith("model.") else f"model.name = {name!r}: {text}") from error


def _module_and_path(made: Any) -> tuple[nn.Module, str]:
    """Return what a function of a program built. Raises ModelError where that is not a module and the path of its classifier."""
    match made:
        case (nn.Module() as module, str(path)):
            return module, path
    raise ModelError(
        f"the function returned a value of type {type(made).__name__}; return the module and the path of its classifier: "
        'return net, "head"'
    )
