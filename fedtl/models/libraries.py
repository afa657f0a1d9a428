"""
Any classification model of timm or torchvision, cut at the library's own classifier. The only file that imports
either, and only when such a model is asked for.
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
    """A timm model and the path of its classifier, which timm's own ``get_classifier`` names."""
    timm = import_timm()
    channels, height, width = _image(name, shape)
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    sized = {"img_size": (height, width)} if getattr(config, "fixed_input_size", False) else {}
    build = partial(
        timm.create_model, name, pretrained=pretrained, num_classes=10, in_chans=channels, **sized
    )
    model: Any = _reaching(build, name) if pretrained else build()
    classifier = model.get_classifier()
    paths = [path for path, module in model.named_modules() if module is classifier]
    if not isinstance(classifier, nn.Module) or not paths:
        raise ModelError(f"model.name = {name!r} has no single classifier, so it has no head to keep at home")
    return model, paths[0]


def is_timm(name: str) -> bool:
    return bool(import_timm().is_model(name))


def near_timm(name: str) -> list[str]:
    """timm's names that contain this one: what the user may have meant."""
    found: list[str] = import_timm().list_models(f"*{name}*")
    return found


def import_timm() -> Any:
    try:
        import_torchvision()  # timm imports it, so its missing operators must be defined first
        import timm
    except ImportError as error:
        raise ModelError(
            "only built-in models without timm; install it: pip install 'fedtl[vision]'"
        ) from error
    return timm


def torchvision_model(name: str, shape: Shape, pretrained: bool) -> tuple[nn.Module, str]:
    """
    A torchvision model and the path of its classifier: the module whose tensors change shape with
    ``num_classes``, which is what that argument promises.
    """
    try:
        models = import_torchvision().models
    except ImportError as error:
        raise ModelError("torchvision is not installed: pip install 'fedtl[vision]'") from error
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
    extra: dict[str, Any] = {"image_size": height} if name.startswith("vit_") else {}
    extra |= {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        few, more = (
            {path: t.shape for path, t in models.get_model(name, num_classes=n, **extra).state_dict().items()}
            for n in (2, 3)
        )
    owners = {path.rpartition(".")[0] for path in few if few[path] != more[path]}
    if len(owners) != 1:
        raise ModelError(f'model.name = "torchvision/{name}" has {len(owners)} classifiers; fedtl needs one')
    wanted: dict[str, Any] = (
        {"weights": "DEFAULT"} if pretrained else {"weights": None, "num_classes": 10, **extra}
    )
    build = partial(models.get_model, name, **wanted)
    model: Any = _reaching(build, name) if pretrained else build()
    if name.startswith("squeezenet"):  # the one family whose classifier pools after its last layer
        tail = nn.Sequential(*model.classifier, nn.Flatten())
        return nn.Sequential(OrderedDict(features=model.features, classifier=tail)), "classifier"
    return model, owners.pop()


def _reaching(build: Callable[[], nn.Module], name: str) -> nn.Module:
    logger.info("fetching the library's own weights for %s", name)
    try:
        return build()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f'model.weights = "pretrained": the weights of {name} could not be had ({reason}); '
            "fetch them on a connected machine and give their file instead"
        ) from error


def _image(name: str, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ModelError(f'model.name = {name!r} takes images, not rows of {shape[0]} columns; use "mlp"')
    return shape
