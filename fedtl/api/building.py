"""Methods and models by name."""

from collections.abc import Sequence
from typing import Any

from fedtl.errors import ModelError
from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.config.resolve import method_of, model_of
from fedtl.experiment.config.schema import MethodSettings
from fedtl.methods.base import Method
from fedtl.methods.registry import METHODS
from fedtl.models.net import Net
from fedtl.models.registry import MODELS


def list_methods() -> list[str]:
    """The names of the federated methods, those of installed packages included."""
    return list(METHODS)


def create_method(name: str, **settings: Any) -> Method:
    """
    A federated method by its name, with the settings of its table ``[method]``: ``create_method("fedprox", mu=0.1)``.

    Raises ConfigError for an unknown name or setting.
    """
    return method_of(MethodSettings(name=name, **settings))


def list_models() -> list[str]:
    """The names of the built-in models. timm's names and "torchvision/<name>" are models, too."""
    return list(MODELS)


def create_model(
    name: str,
    shape: tuple[int, ...],
    outputs: int,
    *,
    seed: int = 0,
    pretrained: bool = False,
    **settings: Any,
) -> Net:
    """
    A model with a body and a head, as every silo trains it: ``create_model("mlp", (12,), 2)``.

    ``shape``: of one input, (channels, height, width) or (columns,). ``outputs``: the number of classes, or 1 in
    regression. ``pretrained``: with the weights of timm or torchvision. ``settings``: those of ``[model.settings]``. Raises
    ConfigError or ModelError.
    """
    if not isinstance(shape, Sequence) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError(f"shape = {shape!r}: pass the shape of one input, such as (12,) or (1, 28, 28)")
    if outputs < 1:
        raise ModelError(f"outputs = {outputs}: pass the number of classes, or 1 in regression")
    model = ModelSettings(name=name, settings=settings, weights="pretrained" if pretrained else "")
    return model_of(model, shape, seed).net(outputs)
