"""
How a BatchNorm can stand in a net trained under record-level differential privacy.

BatchNorm makes an example's gradient depend on its neighbours in the batch, and writes its statistics where
no clipping reaches. Here the statistics are constants that only an adaptation or a private release replaces,
and scale and shift are a layer of their own, so that whoever takes gradients example by example meets no
trainable layer with buffers. Must not know how such gradients are taken.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedtl.errors import ModelError
from fedtl.models.state import State

KINDS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PLACES = {"weight": "affine", "bias": "affine", "running_mean": "norm", "running_var": "norm"}
COUNT = "num_batches_tracked"
T = TypeVar("T")


class FixedNorm(nn.Module):
    """(x - running_mean) / sqrt(running_var + eps) by channel of x [N, C, ...], also in train()."""

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
    """x * weight + bias by channel of x [N, C, ...]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.weight.requires_grad:
            return _linear(x, self.weight, self.bias)
        mean, var = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=0.0)  # all three gradients in one pass


def _linear(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """By channel; half the time of F.batch_norm, whose backward pass reads all of x for gradients that nobody wants."""
    shape = (-1, *(1,) * (x.dim() - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(x.dtype)


class SiloNorm(nn.Sequential):
    """
    A BatchNorm as ``norm``, ``affine`` if it has scale and shift, and timm's own ``drop`` and ``act``.

    A backward hook on ``affine`` makes its output a view that autograd lets nobody modify in place, and the
    libraries' blocks go on with ``out += identity``: then a copy is given away.
    """

    norm: FixedNorm

    def __init__(self, old: _BatchNorm) -> None:
        """``old`` is of a known kind; its tensors and children move here."""
        super().__init__()
        self.kind, self.momentum = type(old), old.momentum
        self.norm = FixedNorm(old.num_features, old.eps)
        if old.affine:
            self.affine = ChannelAffine(old.num_features)
        for name, place in self._tensors():
            setattr(place, name, getattr(old, name))
        for name, child in old.named_children():
            self.add_module(name, child)
        self.train(old.training)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x.clone() if x._is_view() else x

    def ordinary(self) -> nn.Module:
        """The BatchNorm that this was, with the tensors and children of this, and no batch counted."""
        mean = self.norm.running_mean
        old = self.kind(len(mean), self.norm.eps, self.momentum, hasattr(self, "affine")).to(mean.device)
        for name, place in self._tensors():
            setattr(old, name, getattr(place, name))
        for name, child in self.named_children():
            if name not in PLACES.values():
                old.add_module(name, child)
        return old.train(self.training)

    def _tensors(self) -> Iterator[tuple[str, nn.Module]]:
        """A BatchNorm's names for its tensors, and where those are here."""
        return ((name, self.get_submodule(place)) for name, place in PLACES.items() if hasattr(self, place))


def convert_norms(body: nn.Module) -> nn.Module:
    """
    A copy in which every BatchNorm is a SiloNorm and no layer works in place; the same outputs in eval().

    Raises ModelError for a norm with running statistics that is not exactly of a known kind, since what its
    forward does with the batch is not known, and for a BatchNorm without them: it always uses the batch.
    """
    copied = _swapped(body, lambda path, module: SiloNorm(module) if _is_batch_norm(module, path) else module)
    for module in copied.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = False
    return copied


def restore_norms(body: nn.Module) -> nn.Module:
    """The way back, for whoever has torch alone: a copy with BatchNorms; the same outputs in eval()."""
    return _swapped(body, lambda _, module: module.ordinary() if isinstance(module, SiloNorm) else module)


def convert_state(net: nn.Module, state: Mapping[str, T]) -> dict[str, T]:
    """
    The state, or a part of it, or anything else that goes by tensors' names, by the names of ``convert(net)``:
    ``bn1.weight`` is ``bn1.affine.weight``,
    ``bn1.running_mean`` is ``bn1.norm.running_mean``, and batches are not counted. Names that are not of a
    BatchNorm stay. ``net`` may be the ordinary or the converted one. Raises ModelError as ``convert`` does.
    """
    names = _names(net)
    return {names.get(name, name): tensor for name, tensor in state.items() if names.get(name) != ""}


def restore_state(net: nn.Module, state: State) -> State:
    """Undoes ``convert_state``; of batches none are counted."""
    ordinary = restore_names(net, state)
    back = [name for name in ordinary.keys() - state.keys() if name.endswith("running_var")]
    return ordinary | {name.removesuffix("running_var") + COUNT: torch.tensor(0) for name in back}


def restore_names(net: nn.Module, named: Mapping[str, T]) -> dict[str, T]:
    """Whatever goes by converted names, by the ordinary ones."""
    names = {new: old for old, new in _names(net).items() if new}
    return {names.get(name, name): its for name, its in named.items()}


def _names(net: nn.Module) -> dict[str, str]:
    """The converted name of each tensor of a BatchNorm; "" for the count, which has no place there."""
    found: dict[str, str] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, SiloNorm) or _is_batch_norm(module, path):
            prefix = f"{path}." if path else ""
            found |= {f"{prefix}{name}": f"{prefix}{place}.{name}" for name, place in PLACES.items()}
            found[prefix + COUNT] = ""
    return found


def _swapped(net: nn.Module, swap: Callable[[str, nn.Module], nn.Module]) -> nn.Module:
    """A copy with ``swap(path, module)`` for each module; one that stands in two places goes on doing so."""
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
    if kind not in KINDS and kind is not getattr(sys.modules.get("timm.layers"), "BatchNormAct2d", None):
        raise ModelError(
            f"{where} is a {kind.__name__}; under record-level privacy fedtl knows BatchNorm1d, 2d, 3d and timm's "
            "BatchNormAct2d: choose a model of these, or one with GroupNorm or LayerNorm"
        )
    if module.running_mean is None:
        raise ModelError(
            f"{where} is a {kind.__name__} without running statistics, so it always uses its batch's: build "
            "it with track_running_stats=True"
        )
    return True


# Old names, until all callers are merged.
convert = convert_norms
restore = restore_norms
