"""A model that a Python program passes: a module, or a function that builds one, as the table of models has them."""

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from fedtl.errors import ModelError, first_line
from fedtl.models.net import Net, Shape

Build = Callable[..., tuple[nn.Module, str]]


@dataclass(frozen=True, eq=False)
class FixedModel:
    """Builds copies of one module, whatever the shape of an input and the seed."""

    module: nn.Module
    classifier: str

    def __call__(self, shape: Shape) -> tuple[nn.Module, str]:
        try:
            return deepcopy(self.module).cpu().float(), self.classifier
        except Exception as error:  # whatever an attribute raises
            reason = first_line(error).split(". ")[0]
            raise ModelError(
                f"{type(self.module).__name__} cannot be copied ({reason}); pass a function of the shape of one input that builds it "
                "and returns it with the path of its classifier"
            ) from error


def as_build(model: nn.Module | Build) -> Build:
    """
    Return a function from the shape of one input to a module and the path of its classifier. Of a module the classifier is
    the last Linear layer or 1 x 1 convolution. Raises ModelError where it has none, or where ``model`` is not a model.
    """
    if isinstance(model, Net):  # from create_model: its head is the classifier
        return FixedModel(nn.Sequential(OrderedDict(body=model.body, head=model.head)), "head")
    if not isinstance(model, nn.Module):
        if not callable(model) or isinstance(model, type):
            raise ModelError(
                f"model is of type {type(model).__name__}; pass a torch.nn.Module, or a function of the shape of one input"
            )
        return model
    if _is_linear(model):
        raise ModelError(
            f"the model is a single {type(model).__name__}; put it into a Sequential, or pass a function of the shape of one input"
        )
    heads = [path for path, module in model.named_modules() if path and _is_linear(module)]
    if not heads:
        raise ModelError(
            f"{type(model).__name__} has no Linear layer to replace by a head; pass a function of the shape of one input that "
            "returns the module and the path of its classifier"
        )
    return FixedModel(model, heads[-1])


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
