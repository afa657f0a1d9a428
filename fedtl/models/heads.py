"""Heads of any width that are made like a model's own classifier."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.net import owns_parameters

PROBABILITIES = (nn.Softmax, nn.Softmax2d, nn.Sigmoid)


@dataclass(frozen=True)
class Heads:
    """``make`` returns a head of any width; ``old`` gives the scores of the classifier, by weights like those of a head."""

    make: Callable[[int], nn.Module]
    old: Callable[[Tensor], Tensor]
    from_conv: bool = False


def heads_like(old: nn.Module, flat: bool) -> Heads:
    """
    Return heads like the classifier ``old``. ``flat``: its inputs are [N, features], so a 1 x 1 convolution before a flattening
    is a Linear layer. Raises ModelError for a classifier whose width cannot be changed.
    """
    own = {name for name, _ in old.named_parameters()}
    if isinstance(old, nn.Linear) and own <= {"weight", "bias"}:
        return Heads(_linear(old.weight, old.bias), lambda x: F.linear(x, old.weight, old.bias))
    if (
        isinstance(old, nn.Conv2d)
        and old.kernel_size == (1, 1)
        and old.groups == 1
        and own <= {"weight", "bias"}
    ):
        if flat:
            weight = old.weight.detach().flatten(1)
            return Heads(_linear(weight, old.bias), lambda x: F.linear(x, weight, old.bias), from_conv=True)
        channels, bias = old.in_channels, old.bias is not None
        return Heads(
            lambda width: nn.Conv2d(channels, width, 1, bias=bias),
            lambda x: F.conv2d(x, old.weight, old.bias),
        )
    if isinstance(old, nn.Sequential) and any(map(owns_parameters, old)):
        return _sequential_heads(old)
    raise ModelError(
        f"the classifier is a {type(old).__name__}; fedtl can change the width of Linear and 1 x 1 Conv2d only; "
        "choose another model"
    )


def _linear(old: Tensor, bias: Tensor | None) -> Callable[[int], nn.Module]:
    zero = not old.any()  # a classifier that begins at zero does so at any width

    def linear(width: int) -> nn.Module:
        head = nn.Linear(old.shape[1], width, bias is not None)
        for parameter in head.parameters() if zero else ():
            nn.init.zeros_(parameter)
        return head

    return linear


def _sequential_heads(old: nn.Sequential) -> Heads:
    """Return heads that differ from the classifier in its last layer with parameters only."""
    last = max(index for index, layer in enumerate(old) if owns_parameters(layer))
    for layer in list(old)[last + 1 :]:
        if isinstance(layer, PROBABILITIES):
            raise ModelError(
                f"the classifier ends with {type(layer).__name__}, but the loss takes scores before it; leave it out"
            )
    heads = heads_like(old[last], flat=False)

    def make(width: int) -> nn.Module:
        head = deepcopy(old)
        head[last] = heads.make(width)
        return head

    def like(x: Tensor) -> Tensor:
        for index, layer in enumerate(old):
            x = heads.old(x) if index == last else layer(x)
        return x

    return Heads(make, like)
