"""
Adapters: small modules that are added to layers of a frozen body. Their type decides which of their tensors are trained.

An adapter is a child of its layer, which a hook runs after it. So the layer keeps its type, and its tensors keep their names.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fedtl.models.attention import PROJECTION, AdaptedAttention

CHILD = "adapter"  # the name of an adapter in its layer
KERNEL = ("kernel_size", "stride", "padding", "dilation", "padding_mode")  # of a convolution
Layer = nn.Linear | nn.Conv2d | nn.MultiheadAttention


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
    W x + scale B A x (LoRA: Hu et al., 2022), ``down`` A with the layer's kernel, ``up`` B without; B starts at 0. Of torch's attention
    W is the packed projection to queries, keys and values (``models.attention``).

    With A fixed, the mean over silos of the changes scale B_i A is scale mean(B_i) A, the change by the mean of the B_i
    (FFA-LoRA: Sun et al., 2024); with both trained, the mean of products is not the product of means.
    """

    def __init__(self, layer: Layer, rank: int, scale: float, fixed: frozenset[str]) -> None:
        down: nn.Module
        up: nn.Module
        if isinstance(layer, nn.Linear):
            down = nn.Linear(layer.in_features, rank, bias=False)
            up = nn.Linear(rank, layer.out_features, bias=False)
        elif isinstance(layer, nn.MultiheadAttention):
            down = nn.Linear(layer.embed_dim, rank, bias=False)
            up = nn.Linear(rank, 3 * layer.embed_dim, bias=False)
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
        elif isinstance(layer, nn.MultiheadAttention):
            super().__init__(nn.Linear(layer.embed_dim, rank), nn.Linear(rank, layer.embed_dim))
        else:
            width = layer.out_channels
            super().__init__(nn.Conv2d(width, rank, 1), nn.Conv2d(rank, width, 1))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        return output + self.up(F.relu(self.down(output)))


def add_adapter(layer: Layer, adapter: Adapter) -> None:
    """Make ``adapter`` a part of the layer."""
    layer.add_module(CHILD, adapter)
    if isinstance(layer, nn.MultiheadAttention) and isinstance(adapter, LowRank):
        layer.__class__ = AdaptedAttention
        layer.register_forward_hook(_unchanged)
    else:
        layer.register_forward_hook(_adapted)


def _adapted(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    if isinstance(output, tuple):  # of attention: also its weights
        return layer.get_submodule(CHILD)(inputs[0], output[0]), *output[1:]
    return layer.get_submodule(CHILD)(inputs[0], output)


def _unchanged(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
    """A hook, because torch's fast path of an encoder layer reads the weights of its attention without calling it, unless there is one."""


def weight_name(layer: nn.Module) -> str:
    """Return the name of the weight that a low-rank adapter of the layer changes."""
    return PROJECTION if isinstance(layer, nn.MultiheadAttention) else "weight"


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
            name = weight_name(layer)
            weight = layer.get_parameter(name).detach()
            setattr(layer, name, nn.Parameter((weight.double() + adapter.weight_change()).to(weight.dtype)))
            delattr(layer, CHILD)
            for key in [key for key, hook in layer._forward_hooks.items() if hook in (_adapted, _unchanged)]:
                del layer._forward_hooks[key]
            if isinstance(layer, AdaptedAttention):
                layer.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
    return copied


def merged_into(net: nn.Module) -> Mapping[str, str]:
    """Return, for each tensor of a low-rank adapter of the net, the weight that ``merged`` adds it to, by their names."""
    return {
        f"{path}.{CHILD}.{name}": f"{path}.{weight_name(module)}"
        for path, module in net.named_modules(remove_duplicate=False)
        if isinstance(adapter := getattr(module, CHILD, None), LowRank)
        for name, _ in adapter.named_parameters()
    }
