"""Methods and models by name."""

from typing import Any

from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import MethodSettings
from fedtl.methods.base import Method
from fedtl.methods.registry import METHODS
from fedtl.models.net import Net
from fedtl.models.registry import MODELS, model_spec


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
    name: str, shape: tuple[int, ...], outputs: int, *, seed: int = 0, pretrained: bool = False
) -> Net:
    """
    A model with a body and a head, as every silo trains it.

    ``shape``: of one input, (channels, height, width) or (columns,). ``outputs``: the number of classes, or 1 in
    regression. ``pretrained``: with the weights of timm or torchvision. Raises ModelError.
    """
    return model_spec(name, shape, seed, pretrained).net(outputs)
