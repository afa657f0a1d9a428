"""
Adapters: small modules beside layers of a frozen body. Their type decides which of their tensors are trained.

An adapter is a child of its layer, which a hook runs after it. So the layer keeps its type, and its tensors keep their names.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

CHILD = "adapter"  # the name of an adapter in its layer
KERNEL = ("kernel_size", "stride", "padding", "dilation", "padding_mode")  # of a convolution
Layer = nn.Linear | nn.Conv2d


class Adapter(nn.Module):
    """What changes the output of a layer. ``fixed``: the children that keep their initial weights, which all silos have."""

    def __init__(self, down: nn.Module, up: nn.Module, fixed: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.down, self.up, self.fixed = down, up, fixed
        for parameter in up.parameters():  # the model starts as the frozen one
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        raise NotImplementedError


class LowRank(Adapter):
    """
    W x + scale B A x (LoRA: Hu et al., 2022), ``down`` A with the layer's kernel, ``up`` B without; B starts at 0.

    With A fixed, the mean over silos of the changes scale B_i A is scale mean(B_i) A, the change by the mean of the B_i
    (FFA-LoRA: Sun et al., 2024); with both trained, the mean of products is not the product of means.
    """

    def __init__(self, layer: Layer, rank: int, scale: float, fixed: frozenset[str]) -> None:
        down: nn.Module
        up: nn.Module
        if isinstance(layer, nn.Linear):
            down = nn.Linear(layer.in_features, rank, bias=False)
            up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            kernel: dict[str, Any] = {name: getattr(layer, name) for name in KERNEL}
            down = nn.Conv2d(layer.in_channels, rank, bias=False, **kernel)
            up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        super().__init__(down, up, fixed)
        self.scale = scale

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        return output + self.scale * self.up(self.down(x))

    def weight_change(self) -> Tensor:
        """Return scale B A in the shape of the layer's weight, float64."""
        up, down = (self.get_parameter(f"{name}.weight").detach().double() for name in ("up", "down"))
        return self.scale * (up.flatten(1) @ down.flatten(1)).unflatten(1, down.shape[1:])


class Bottleneck(Adapter):
    """y + U relu(D y) for an output y of the layer (Houlsby et al., 2019); U starts at 0."""

    def __init__(self, layer: Layer, rank: int) -> None:
        if isinstance(layer, nn.Linear):
            super().__init__(nn.Linear(layer.out_features, rank), nn.Linear(rank, layer.out_features))
        else:
            width = layer.out_channels
            super().__init__(nn.Conv2d(width, rank, 1), nn.Conv2d(rank, width, 1))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        return output + self.up(F.relu(self.down(output)))


def add_adapter(layer: Layer, adapter: Adapter) -> None:
    """Make ``adapter`` a part of the layer."""
    layer.add_module(CHILD, adapter)
    layer.register_forward_hook(_adapted)


def _adapted(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    changed: Tensor = layer.get_submodule(CHILD)(inputs[0], output)
    return changed


def trained_by_adapters(model: nn.Module) -> Iterator[str]:
    """Yield the names of the tensors of adapters that are trained."""
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Adapter):
            for name, _ in module.named_parameters(prefix=path, remove_duplicate=False):
                if name.removeprefix(f"{path}.").split(".")[0] not in module.fixed:
                    yield name


def merged(net: nn.Module) -> nn.Module:
    """
    Return a copy in which each layer with a low-rank adapter has the weight W + scale B A and no adapter. Other adapters stay:
    no weight of a layer does what they do.
    """
    copied = deepcopy(net)
    for layer in [module for module in copied.modules() if isinstance(module, Layer)]:
        adapter = getattr(layer, CHILD, None)
        if isinstance(adapter, LowRank):
            weight = layer.weight.detach()
            layer.weight = nn.Parameter((weight.double() + adapter.weight_change()).to(weight.dtype))
            delattr(layer, CHILD)
            for key in [key for key, hook in layer._forward_hooks.items() if hook is _adapted]:
                del layer._forward_hooks[key]
    return copied


def merged_into(net: nn.Module) -> Mapping[str, str]:
    """Return, for each tensor of a low-rank adapter of the net, the weight that ``merged`` adds it to, by their names."""
    return {
        f"{path}.{CHILD}.{name}": f"{path}.weight"
        for path, module in net.named_modules(remove_duplicate=False)
        if isinstance(adapter := getattr(module, CHILD, None), LowRank)
        for name, _ in adapter.named_parameters()
    }
