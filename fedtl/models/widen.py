"""
Net2Net (Chen et al., 2015): a wider net that computes the same function as a narrow one, for fedtl's own layered models.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedtl._util.randomness import torch_generator
from fedtl.errors import ModelError
from fedtl.models.net import Net
from fedtl.models.state import State

UNCHANGED = (nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
WEIGHTED = (nn.Linear, nn.Conv2d)


def widened(narrow: Net, wide: Net, state: State, seed: int) -> State:
    """
    Return the tensors of ``state``, by the names of ``narrow``, in the shapes of ``wide``.

    Each new unit is a copy of an old one that is drawn for it; the weights of the next layer are divided among the copies of a
    unit in shares that are drawn and sum to 1, so that copies can become different in training. In evaluation mode, and in training
    mode too, the outputs stay the same. Tensors that ``state`` lacks are left out. Raises ModelError for a net that is not wider,
    and for layers other than Linear, convolutions, BatchNorm, ReLU, pooling and flattening, one after another.
    """
    draw, grown = torch_generator("widen", seed), dict(state)
    copies: tuple[Tensor, Tensor] | None = (
        None  # for each unit the old unit that it copies, and its share of it; None: unchanged
    )
    for (name, old), (_, new) in zip(_layers(narrow), _layers(wide), strict=True):
        if type(old) is not type(new):
            raise ModelError(
                f"{name} is {type(old).__name__} in one net and {type(new).__name__} in the other"
            )
        if isinstance(old, NORMS) and copies is not None:
            _replace(grown, name, ("weight", "bias", "running_mean", "running_var"), copies[0])
        elif isinstance(old, WEIGHTED) and isinstance(new, WEIGHTED):
            if copies is not None and f"{name}.weight" in grown:
                grown[f"{name}.weight"] = _with_inputs(grown[f"{name}.weight"], *copies)
            copies = _copies(old.weight.shape[0], new.weight.shape[0], name, draw)
            if copies is not None:
                _replace(grown, name, ("weight", "bias"), copies[0])
        elif not isinstance(old, (*UNCHANGED, *NORMS)):
            raise ModelError(f"{name} is {type(old).__name__}, which cannot be made wider")
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    if wrong := [name for name, tensor in grown.items() if tensor.shape != shapes.get(name)]:
        raise ModelError(f"{wrong[0]} cannot be made wider to fit the new model; change widths only")
    return grown


def _layers(net: Net) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers in order, with their paths: fedtl's layered models run them one after another."""
    for path, module in net.named_modules():
        if next(module.children(), None) is None and not path.startswith("aux"):
            yield path, module
        elif not isinstance(module, Net | nn.Sequential | nn.ModuleDict | nn.Identity) and path:
            raise ModelError(f"{path} is {type(module).__name__}; only mlp and convnet can be made wider")


def _copies(old: int, new: int, name: str, draw: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Return for each new unit the old unit that it copies, and its share of it [new]; None where nothing changes."""
    if new < old:
        raise ModelError(f"{name} has {old} units, and the new one {new}: a net can only be made wider")
    if new == old:
        return None
    of = torch.cat([torch.arange(old), torch.randint(old, (new - old,), generator=draw)])
    raw = 0.5 + torch.rand(new, generator=draw)
    return of, raw / torch.zeros(old).index_add_(0, of, raw)[of]


def _with_inputs(weight: Tensor, of: Tensor, share: Tensor) -> Tensor:
    """Return a weight [out, in, ...] for the copies of its inputs; after a Flatten each channel has several inputs in a row."""
    positions = weight.shape[1] // (int(of.max()) + 1)
    inputs = (of[:, None] * positions + torch.arange(positions)).flatten()
    shares = share.repeat_interleave(positions).view(1, -1, *[1] * (weight.dim() - 2))
    return weight[:, inputs] * shares


def _replace(state: State, name: str, keys: tuple[str, ...], of: Tensor) -> None:
    for key in keys:
        if f"{name}.{key}" in state:
            state[f"{name}.{key}"] = state[f"{name}.{key}"][of]
