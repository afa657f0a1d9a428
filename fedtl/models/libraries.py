"""
Every classification model of timm and torchvision, and the path of its classifier. Each library is imported only when one
of its models is used.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fedtl._util.torchvision_import import import_torchvision
from fedtl.errors import ModelError, first_line
from fedtl.models.downloads import HUB_WEIGHTS, WeightsFile, hub_file, not_here, url_file, without_network
from fedtl.models.net import Shape
from fedtl.models.pixels import PixelScale

logger = logging.getLogger(__name__)
TORCHVISION = "torchvision/"
HUB, OLD_HUB = "hf-hub:", "hf_hub:"  # timm's sources of models by the name of a repository


@dataclass(frozen=True)
class LibraryOptions:
    """
    How a library's model is built. ``pretrained``: with the library's weights; ``offline``: nothing is downloaded;
    ``checkpointing``: activations are computed again in the backward pass, which needs less memory (Chen et al., 2016).
    """

    pretrained: bool = False
    offline: bool = False
    checkpointing: bool = False


def timm_model(name: str, shape: Shape, options: LibraryOptions) -> tuple[nn.Module, str]:
    """Return a timm model and the path of its classifier, as ``get_classifier`` gives it. Raises ModelError."""
    timm = import_timm()
    channels, height, width = _image(name, shape)
    with without_network() if options.offline else nullcontext():
        config = timm_config(name)
        size = {"img_size": (height, width)} if getattr(config, "fixed_input_size", False) else {}
        build = partial(timm.create_model, _source_name(name), num_classes=10, in_chans=channels, **size)
        model: Any = (
            _pretrained(partial(build, pretrained=True), name, options)
            if options.pretrained
            else _built(build, shape)
        )
    if options.checkpointing:
        _set_checkpointing(model, name)
    classifier = model.get_classifier()
    paths = [path for path, module in model.named_modules() if module is classifier]
    if not isinstance(classifier, nn.Module) or not paths:
        raise ModelError(
            f"model.name = {name!r} has no single classifier to replace by a head; choose another model"
        )
    return model, paths[0]


def _built(build: Callable[[], nn.Module], shape: Shape) -> nn.Module:
    """Return ``build()``. Raises ModelError where timm refuses images of this ``shape``, in whatever way it does."""
    try:
        return build()
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelError(
            f"timm cannot build it for images of shape {shape}: {first_line(error)}; set data.size, or choose another model"
        ) from error


def timm_config(name: str) -> Any:
    """
    Return timm's configuration of a model's pretrained weights; of a name such as "hf-hub:timm/resnet18.a1_in1k" the one in that
    repository. Raises ModelError.
    """
    timm = import_timm()
    if not is_hub_name(name):
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    repository = _source_name(name).removeprefix(HUB)
    try:
        config, _, _ = timm.models.load_model_config_from_hf(repository)
    except (OSError, RuntimeError, ValueError) as error:
        raise not_here(name, hub_file(repository, ("config.json",)), first_line(error)) from error
    return SimpleNamespace(**config)


def pixel_scale_of(name: str, offline: bool = False) -> PixelScale | None:
    """Return the scale of pixels that a library's pretrained weights expect; None for a model of no library. Raises ModelError."""
    if name.startswith(TORCHVISION):
        weights = _torchvision_weights(name.removeprefix(TORCHVISION))
        preset = None if weights is None else weights.transforms()
        return None if preset is None else PixelScale(tuple(preset.mean), tuple(preset.std))
    if not (is_hub_name(name) or is_timm(name)):
        return None
    with without_network() if offline else nullcontext():
        config = timm_config(name)
    return PixelScale(tuple(config.mean), tuple(config.std))


def is_hub_name(name: str) -> bool:
    """Whether a name is that of a repository of the Hugging Face hub: "hf-hub:owner/name", also written hf_hub."""
    return name.startswith((HUB, OLD_HUB)) and "/" in name


def _source_name(name: str) -> str:
    return HUB + name.removeprefix(OLD_HUB) if name.startswith(OLD_HUB) else name


def is_timm(name: str) -> bool:
    return bool(import_timm().is_model(name))


def near_timm(name: str) -> list[str]:
    """Return the names of timm's models that contain ``name``."""
    names: list[str] = import_timm().list_models(f"*{name}*")
    return names


def import_timm() -> Any:
    try:
        import_torchvision()  # timm imports it, so its missing operators must be defined first
        import timm
    except ImportError as error:
        raise ModelError("models of timm need a package: pip install 'fedtl[vision]'") from error
    return timm


def torchvision_model(name: str, shape: Shape, options: LibraryOptions) -> tuple[nn.Module, str]:
    """
    Return a torchvision model and the path of its classifier: the module whose tensors change shape with ``num_classes``.
    Raises ModelError.
    """
    try:
        models = import_torchvision().models
    except ImportError as error:
        raise ModelError("models of torchvision need a package: pip install 'fedtl[vision]'") from error
    channels, height, _width = _image(name, shape)
    if channels != 3:
        raise ModelError(
            f'model.name = "torchvision/{name}" takes 3 channels, not {channels}; set data.channels = 3'
        )
    if name not in models.list_models(module=models):
        near = [known for known in models.list_models(module=models) if name in known]
        raise ModelError(
            f"torchvision has no classification model {name!r}; it has {', '.join(near[:8] or ['resnet18'])} ..."
        )
    extra: dict[str, int] = {"image_size": height} if name.startswith("vit_") else {}
    extra |= {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        two, three = (
            {path: t.shape for path, t in models.get_model(name, num_classes=n, **extra).state_dict().items()}
            for n in (2, 3)
        )
    owners = {path.rpartition(".")[0] for path in two if two[path] != three[path]}
    if len(owners) != 1:
        raise ModelError(
            f'model.name = "torchvision/{name}" has {len(owners)} classifiers; choose a model with one'
        )
    if options.checkpointing:
        raise ModelError(
            f'model.checkpointing: "torchvision/{name}" does not offer it, and models of timm do; remove it'
        )
    if options.pretrained:
        build = partial(models.get_model, name, weights="DEFAULT")
        model: Any = _pretrained(build, TORCHVISION + name, options)
    else:
        model = models.get_model(name, weights=None, num_classes=10, **extra)
    if name.startswith("squeezenet"):  # the only family whose classifier pools after its last layer
        tail = nn.Sequential(*model.classifier, nn.Flatten())
        return nn.Sequential(OrderedDict(features=model.features, classifier=tail)), "classifier"
    return model, owners.pop()


def _torchvision_weights(name: str) -> Any:
    """Return torchvision's default weights of a model; None where it has none."""
    models = import_torchvision().models
    return next(iter(models.get_model_weights(name)), None) and models.get_model_weights(name).DEFAULT


def _pretrained(build: Callable[[], nn.Module], name: str, options: LibraryOptions) -> nn.Module:
    """Return ``build()``, which takes the library's weights from this machine, or downloads them. Raises ModelError."""
    file = weights_file(name)
    if not file.is_here:
        if options.offline:
            raise not_here(name, file, "model.offline = true")
        logger.info("downloading the library's weights of %s", name)
    try:
        return build()
    except (OSError, RuntimeError, ValueError) as error:
        raise not_here(name, file, first_line(error)) from error


def weights_file(name: str) -> WeightsFile:
    """Return the file with the library's weights of a model. Raises ModelError where there are none."""
    if name.startswith(TORCHVISION):
        weights = _torchvision_weights(name.removeprefix(TORCHVISION))
        url, repository = (None, None) if weights is None else (weights.url, None)
    else:
        config = timm_config(name)
        url, repository = getattr(config, "url", None), getattr(config, "hf_hub_id", None)
    if repository:
        names = (own,) if (own := getattr(config, "hf_hub_filename", None)) else HUB_WEIGHTS
        return hub_file(repository, names)
    if not isinstance(url, str) or not url:
        raise ModelError(
            f'model.weights = "pretrained": the library has no weights of {name}; choose another model'
        )
    return url_file(url)


def _set_checkpointing(model: Any, name: str) -> None:
    """Let a timm model compute activations again in the backward pass. Raises ModelError where it cannot."""
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise ModelError(
            f"model.checkpointing: {name} does not offer it; remove it, or choose another model"
        ) from error
    for path, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise ModelError(
                f"model.checkpointing: {path} of {name} is a {type(module).__name__}, whose running statistics would be updated twice "
                "a step; remove it, or choose a model with LayerNorm"
            )


def _image(name: str, shape: Shape) -> Shape:
    if len(shape) > 3:
        text = " x ".join(map(str, shape[1:]))
        raise ModelError(f'model.name = {name!r} takes images, not volumes of {text}; use "convnet"')
    if len(shape) != 3:
        what, other = ("series", "convnet1d") if len(shape) == 2 else (f"rows of {shape[0]} columns", "mlp")
        raise ModelError(f'model.name = {name!r} takes images, not {what}; use "{other}"')
    return shape
