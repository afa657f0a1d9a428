"""How a net is run with one set of weights, as loss terms see it (``methods.losses.Model``)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from fedtl.methods.losses import Pass
from fedtl.models import precision
from fedtl.models.net import Net
from fedtl.models.norms import FEDTL_NORMS, is_norm
from fedtl.models.state import State

CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # by the number of axes of an output
Compute = tuple[torch.device, str]  # the device and the arithmetic (``precision.DTYPES``)


class _BodyAndHead(nn.Module):
    """Gives features and scores in one call, so that other weights can be put in for that call."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net.body(x)
        return features, self.net.head(features)


@dataclass(frozen=True, eq=False)
class NetModel:
    """
    A net with the weights that it holds or, for each call, with other ``weights``, which may be differentiated. ``layers``:
    the paths of modules whose outputs are wanted. ``others`` gives the model of another set's name.
    """

    net: Net
    compute: Compute
    others: Callable[[str], "NetModel"]
    layers: Sequence[str] = ()
    weights: State | None = None
    differentiable: bool = True

    def run(self, x: Tensor) -> Pass:
        device, dtype = self.compute
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            with (
                precision.autocast_for(dtype, device),
                _group_norms_in_default_layout(self.net),
                outputs_of(self.net, self.layers) as layers,
            ):
                features, scores = self._features_and_scores(x)
            features, scores = precision.to_float32(features), precision.to_float32(scores)
            return Pass(features.flatten(2).mean(2) if features.dim() > 2 else features, scores, layers)

    def by(self, name: str) -> "NetModel":
        return self.others(name)

    @property
    def aux(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        if self.weights is None:
            return self.net.aux  # type: ignore[return-value]
        return {name: partial(self._aux, name) for name in self.net.aux}

    def _features_and_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.weights is None:
            features = self.net.body(x)
            return features, self.net.head(features)
        weights = {f"net.{name}": tensor for name, tensor in self.weights.items()}
        result: tuple[Tensor, Tensor] = functional_call(_BodyAndHead(self.net), weights, (x,))
        return result

    def _aux(self, name: str, x: Tensor) -> Tensor:
        assert self.weights is not None
        prefix = f"aux.{name}."
        weights = {
            key.removeprefix(prefix): tensor for key, tensor in self.weights.items() if key.startswith(prefix)
        }
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            result: Tensor = functional_call(self.net.aux[name], weights, (x,))
            return result


@contextmanager
def outputs_of(net: Net, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of these modules while the block lasts, the channels or features as the second axis (``features_last``)."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        output = output.movedim(-1, 1) if features_last(module, output.dim()) else output
        outputs[path] = precision.to_float32(output)

    hooks = [net.get_submodule(path).register_forward_hook(partial(keep, path)) for path in paths]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def features_last(module: nn.Module, axes: int) -> bool:
    """
    Return whether an output with this number of ``axes`` has its features on the last axis (tokens [N, T, D]) and not on the second
    (maps [N, C, T] and [N, C, H, W]). They are last where the module has weights, but no convolution over all positions and no norm
    of channels.
    """
    of_maps = (CONVOLUTIONS.get(axes, ()), _NormBase, nn.GroupNorm, *FEDTL_NORMS)
    own = [one for one in module.modules() if any(True for _ in one.parameters(False)) or is_norm(one)]
    maps = any(isinstance(one, of_maps) or (axes == 4 and _is_norm_of_images(one)) for one in own)
    return axes > 2 and bool(own) and not maps


def _is_norm_of_images(module: nn.Module) -> bool:
    """Return whether a module is a norm of the channels of images: LayerNorm2d of timm is a LayerNorm of torch."""
    return is_norm(module) and "2d" in type(module).__name__


@contextmanager
def _group_norms_in_default_layout(net: Net) -> Iterator[None]:
    """
    Give each GroupNorm whose input needs no gradient this input in the default memory layout: for one in channels_last, torch
    2.13 on a CPU writes the gradient of the input, which is not needed, to address 0, which ends the process.
    """

    def contiguous(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = given
        return (x if x.requires_grad else x.contiguous(), *rest)

    norms = net.group_norms if torch.is_grad_enabled() else ()
    hooks = [norm.register_forward_pre_hook(contiguous) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
