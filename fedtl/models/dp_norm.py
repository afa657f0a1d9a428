"""
Batch normalisation for models that are trained under record-level differential privacy.

BatchNorm makes an example's gradient depend on the other examples of its batch, and computes its statistics outside the
clipped mechanism. Here the statistics are constants, replaced only by AdaBN or by a private release, and scale and shift
are a layer of their own, so that no trainable layer has buffers when per-example gradients are computed.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedtl.errors import ModelError
from fedtl.models.state import State

SUPPORTED: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Which layer of a SiloNorm holds each tensor of a BatchNorm.
LAYER_OF = {"weight": "affine", "bias": "affine", "running_mean": "norm", "running_var": "norm"}
COUNT = "num_batches_tracked"
T = TypeVar("T")


class FixedNorm(nn.Module):
    """(x - running_mean) / sqrt(running_var + eps), by channel of x [N, C, ...]; also in training mode."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.running_var + self.eps).rsqrt()
        return _linear(x, scale, -self.running_mean * scale)


class ChannelAffine(nn.Module):
    """x * weight + bias, by channel of x [N, C, ...]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.weight.requires_grad:
            return _linear(x, self.weight, self.bias)
        mean, var = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        # Computes all three gradients in one pass. F.batch_norm of some versions refuses an eps of 0.
        return torch.batch_norm(x, self.weight, self.bias, mean, var, False, 0.0, 0.0, False)


def _linear(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x * scale + shift by channel, in half the time of F.batch_norm, which computes gradients not needed here."""
    shape = (-1, *(1,) * (x.dim() - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(x.dtype)


class SiloNorm(nn.Sequential):
    """
    A BatchNorm as two layers: ``norm``, and ``affine`` if it has scale and shift; then timm's ``drop`` and ``act``.

    With a backward hook on ``affine`` its output is a view, which autograd does not allow to modify in place. The blocks of
    the libraries do that next (``out += identity``), so the output is copied then.
    """

    norm: FixedNorm

    def __init__(self, old: _BatchNorm) -> None:
        """Take the tensors and children of ``old``, a BatchNorm of a supported type."""
        super().__init__()
        self.kind, self.momentum = type(old), old.momentum
        self.norm = FixedNorm(old.num_features, old.eps)
        if old.affine:
            self.affine = ChannelAffine(old.num_features)
        for name, layer in self._layers():
            setattr(layer, name, getattr(old, name))
        for name, child in old.named_children():
            self.add_module(name, child)
        self.train(old.training)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x.clone() if x._is_view() else x

    def ordinary(self) -> nn.Module:
        """Return the BatchNorm that this was, with the tensors and children of this one; num_batches_tracked is 0."""
        mean = self.norm.running_mean
        old = self.kind(len(mean), self.norm.eps, self.momentum, hasattr(self, "affine")).to(mean.device)
        for name, layer in self._layers():
            setattr(old, name, getattr(layer, name))
        for name, child in self.named_children():
            if name not in LAYER_OF.values():
                old.add_module(name, child)
        return old.train(self.training)

    def _layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield a BatchNorm's name of each tensor, and the layer that holds it here."""
        return ((name, self.get_submodule(layer)) for name, layer in LAYER_OF.items() if hasattr(self, layer))


def convert_norms(body: nn.Module) -> nn.Module:
    """
    Return a copy in which every BatchNorm is a SiloNorm and no layer works in place; its outputs in eval() are the same.

    Raises ModelError for a layer with running statistics that is not exactly of a supported type, because it is unknown
    what it does with the batch, and for a BatchNorm without running statistics, because it always uses the batch.
    """
    copied = _swapped(body, lambda path, module: SiloNorm(module) if _is_batch_norm(module, path) else module)
    for module in copied.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = False
    return copied


def restore_norms(body: nn.Module) -> nn.Module:
    """Return a copy with ordinary BatchNorms, which torch alone can load; undoes ``convert_norms``."""
    return _swapped(body, lambda _, module: module.ordinary() if isinstance(module, SiloNorm) else module)


def convert_state(net: nn.Module, state: Mapping[str, T]) -> dict[str, T]:
    """
    Return ``state`` by the names of ``convert_norms(net)``: ``bn1.weight`` becomes ``bn1.affine.weight``,
    ``bn1.running_mean`` becomes ``bn1.norm.running_mean``, and ``bn1.num_batches_tracked`` is left out.

    ``state``: a state, a part of one, or any other mapping from tensors' names. ``net``: the ordinary model or the
    converted one. Raises ModelError as ``convert_norms`` does.
    """
    names = _names(net)
    return {names.get(name, name): tensor for name, tensor in state.items() if names.get(name) != ""}


def restore_state(net: nn.Module, state: State) -> State:
    """Return a state by the names of the ordinary model; every num_batches_tracked is 0. Undoes ``convert_state``."""
    ordinary = restore_names(net, state)
    restored = [name for name in ordinary.keys() - state.keys() if name.endswith("running_var")]
    return ordinary | {name.removesuffix("running_var") + COUNT: torch.tensor(0) for name in restored}


def restore_names(net: nn.Module, named: Mapping[str, T]) -> dict[str, T]:
    """Return a mapping from converted names as one from the ordinary names."""
    names = {new: old for old, new in _names(net).items() if new}
    return {names.get(name, name): value for name, value in named.items()}


def _names(net: nn.Module) -> dict[str, str]:
    """Return the converted name of each tensor of a BatchNorm; "" for num_batches_tracked, which a SiloNorm has not."""
    converted: dict[str, str] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, SiloNorm) or _is_batch_norm(module, path):
            prefix = f"{path}." if path else ""
            converted |= {f"{prefix}{name}": f"{prefix}{layer}.{name}" for name, layer in LAYER_OF.items()}
            converted[prefix + COUNT] = ""
    return converted


def _swapped(net: nn.Module, swap: Callable[[str, nn.Module], nn.Module]) -> nn.Module:
    """Return a copy with ``swap(path, module)`` for each module; a module that is used twice is swapped once."""
    holder = nn.Sequential(deepcopy(net))
    new: dict[nn.Module, nn.Module] = {}
    for path, module in list(holder.named_modules(remove_duplicate=False)):
        if module not in new:
            new[module] = swap(path.removeprefix("0").removeprefix("."), module)
        if new[module] is not module:
            holder.set_submodule(path, new[module])
    return holder[0]


def _is_batch_norm(module: nn.Module, path: str) -> TypeGuard[_BatchNorm]:
    if not isinstance(module, _BatchNorm | _InstanceNorm):
        return False
    if isinstance(module, _InstanceNorm) and module.running_mean is None:
        return False
    kind, where = type(module), path or "the model"
    if kind not in SUPPORTED and kind is not getattr(sys.modules.get("timm.layers"), "BatchNormAct2d", None):
        raise ModelError(
            f"{where} is a {kind.__name__}; record-level privacy supports BatchNorm1d, 2d, 3d and timm's BatchNormAct2d: "
            "choose a model with these, or with GroupNorm or LayerNorm"
        )
    if module.running_mean is None:
        raise ModelError(
            f"{where} is a {kind.__name__} without running statistics, so it always uses those of the batch: build it "
            "with track_running_stats=True"
        )
    return True
