"""
Every classification model of timm and torchvision, and the path of its classifier. Each library is imported only when one
of its models is used.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.compat import import_torchvision
from fedtl.models.net import Shape

logger = logging.getLogger(__name__)


def timm_model(name: str, shape: Shape, pretrained: bool) -> tuple[nn.Module, str]:
    """Return a timm model and the path of its classifier, as ``get_classifier`` gives it. Raises ModelError."""
    timm = import_timm()
    channels, height, width = _image(name, shape)
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    size = {"img_size": (height, width)} if getattr(config, "fixed_input_size", False) else {}
    build = partial(timm.create_model, name, pretrained=pretrained, num_classes=10, in_chans=channels, **size)
    model: Any = _download(build, name) if pretrained else build()
    classifier = model.get_classifier()
    paths = [path for path, module in model.named_modules() if module is classifier]
    if not isinstance(classifier, nn.Module) or not paths:
        raise ModelError(
            f"model.name = {name!r} has no single classifier to replace by a head; choose another model"
        )
    return model, paths[0]


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


def torchvision_model(name: str, shape: Shape, pretrained: bool) -> tuple[nn.Module, str]:
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
    if pretrained:
        model: Any = _download(partial(models.get_model, name, weights="DEFAULT"), name)
    else:
        model = models.get_model(name, weights=None, num_classes=10, **extra)
    if name.startswith("squeezenet"):  # the only family whose classifier pools after its last layer
        tail = nn.Sequential(*model.classifier, nn.Flatten())
        return nn.Sequential(OrderedDict(features=model.features, classifier=tail)), "classifier"
    return model, owners.pop()


def _download(build: Callable[[], nn.Module], name: str) -> nn.Module:
    """Return ``build()``, which downloads the library's weights. Raises ModelError."""
    logger.info("downloading the library's weights of %s", name)
    try:
        return build()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f'model.weights = "pretrained": the weights of {name} could not be downloaded ({reason}); '
            "download them on a machine with a connection, and set model.weights to the file"
        ) from error


def _image(name: str, shape: Shape) -> Shape:
    if len(shape) > 3:
        text = " x ".join(map(str, shape[1:]))
        raise ModelError(f'model.name = {name!r} takes images, not volumes of {text}; use "convnet"')
    if len(shape) != 3:
        raise ModelError(f'model.name = {name!r} takes images, not rows of {shape[0]} columns; use "mlp"')
    return shape
