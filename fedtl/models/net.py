"""
A model in two parts: a body that turns inputs into features, and a head that turns features into scores.

A library's model is split at its classifier, which is replaced by a head of any width. This module does not depend on
the library of the model.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fedtl._util.randomness import address
from fedtl.models.norms import is_norm

Shape = tuple[int, ...]  # the shape of one input: (columns,) or (channels, height, width)
MakeModules = Callable[
    [int, Shape], Mapping[str, nn.Module]
]  # the modules of a loss term, from the number of features and the shape of one input


class Net(nn.Module):
    """
    The body, the head, and ``aux``: the modules that loss terms add. Roles follow from these three names. ``statistics``: the names
    of buffers outside of normalisation layers that are statistics of a silo's inputs.
    """

    def __init__(
        self, body: nn.Module, head: nn.Module, aux: nn.ModuleDict, statistics: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.body, self.head, self.aux, self.statistics = body, head, aux, statistics

    # Looked up once: each step needs them, and the layers of a net do not change.

    @cached_property
    def ties(self) -> Mapping[str, str]:
        """The further names of tied weights, as ``tied_names``."""
        return tied_names(self)

    @cached_property
    def group_norms(self) -> Sequence[nn.GroupNorm]:
        """The GroupNorm layers."""
        return [module for module in self.modules() if isinstance(module, nn.GroupNorm)]

    @cached_property
    def kept(self) -> dict[Hashable, Any]:
        """What others computed from this net, by their own keys."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was looked up in the layers: a copy may be given other layers, so it looks again."""
        own = ("ties", "group_norms", "kept")
        return {name: value for name, value in vars(self).items() if name not in own}

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As in torch, but a tensor that the model uses in several places (tied weights) has its first name only."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        for name in self.ties:
            state.pop(kwargs.get("prefix", "") + name, None)
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch, from what ``state_dict`` returns."""
        others = {name: state_dict[first] for name, first in self.ties.items() if first in state_dict}
        return super().load_state_dict({**state_dict, **others} if others else state_dict, strict, assign)

    @torch.no_grad()
    def fill(self, state: Mapping[str, Tensor]) -> None:
        """Do what ``load_state_dict`` does, in a quarter of the time where names and shapes are the net's own."""
        own = self.state_dict(keep_vars=True)
        if own.keys() != state.keys() or any(own[name].shape != one.shape for name, one in state.items()):
            self.load_state_dict(state)
        elif own:
            torch._foreach_copy_(list(own.values()), [state[name] for name in own], non_blocking=True)


@dataclass(frozen=True)
class ModelSpec:
    """
    How a net is built: one body, and heads of any width.

    ``features``: the number of features that the body gives. ``classifier``: the path of the classifier in the library's
    model ("fc", "head.fc"), by which tensors' names are translated between the library's files and the net. ``shape``: of one
    input. ``frozen``: the net's names of tensors that never move, and that do not leave because every silo has them.
    ``from_conv``: the library's classifier is a 1 x 1 convolution before a flattening, and the head the same as a Linear layer.
    ``per_pixel``: scores are [N, width, H, W], one for each pixel of an image. ``wrapper``: the path of the library's model in a module of
    fedtl's own, with a point, or "". ``core``: the library's names of the tensors that a file of weights must hold, where it may lack parts
    of the body that the library trains anew for each task; empty: all of the body. ``statistics``: as of ``Net``.
    """

    body: nn.Module
    make_head: Callable[[int], nn.Module]
    features: int
    classifier: str
    seed: int
    shape: Shape
    frozen: frozenset[str] = frozenset()
    from_conv: bool = False
    per_pixel: bool = False
    wrapper: str = ""
    core: frozenset[str] = frozenset()
    statistics: frozenset[str] = frozenset()

    def net(self, width: int, parts: Iterable[MakeModules] = ()) -> Net:
        """
        Return a net on this body (not on a copy) with a head of ``width`` outputs, whose initial weights depend only on
        the seed and the width. ``parts`` make the modules that loss terms add.
        """
        with seeded(self.seed, "head", width):
            head = self.make_head(width)
        aux = nn.ModuleDict()
        for make in parts:
            with seeded(self.seed, "aux"):
                aux.update(make(self.features, self.shape))
        return Net(self.body, head, aux, self.statistics)

    def library_name(self, name: str) -> str:
        """Return the library's name of a tensor: ``fc.weight`` for ``head.weight``."""
        part, rest = name.split(".", 1)
        return (rest if part == "body" else f"{self.classifier}.{rest}").removeprefix(self.wrapper)

    def library_tensor(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the net in the library's shape; ``name``: in the net."""
        return tensor[..., None, None] if self.from_conv and name == "head.weight" else tensor

    def net_tensor(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the library in the net's shape; undoes ``library_tensor``."""
        conv = self.from_conv and name == "head.weight" and tensor.dim() == 4
        return tensor.flatten(1) if conv else tensor

    def net_name(self, name: str) -> str:
        """Return the net's name of a tensor; undoes ``library_name``."""
        name = self.wrapper + name
        in_head = name.startswith(f"{self.classifier}.")
        return f"head.{name.removeprefix(f'{self.classifier}.')}" if in_head else f"body.{name}"


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return the further names of each tensor that the model uses in several places, each with the tensor's first name."""
    first: dict[int, str] = {}
    tensors = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    for name, tensor in tensors:
        first.setdefault(id(tensor), name)
    return {name: first[id(tensor)] for name, tensor in tensors if first[id(tensor)] != name}


def seeded_build(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Return ``build()`` with initial weights that depend only on the seed; torch's global generator is not changed."""
    with seeded(seed, "body"):
        return build()


def stages(body: nn.Module) -> list[list[str]]:
    """
    Return the names of a body's parameters in stages, from the input on. ``[model] freeze`` is a number of stages.

    A stage is a child module with parameters and the normalisation layers that follow it. If fewer than three children are
    composite (a transformer has one: its blocks), their children are stages in their place; the modules of a ModuleList are
    never opened, however few.
    """
    parameters = {name for name, _ in body.named_parameters(remove_duplicate=False)}
    return [[name for name in stage if name in parameters] for stage in stage_tensors(body)]


def stage_tensors(body: nn.Module) -> list[list[str]]:
    """Return the names of all tensors of a body in its stages, buffers included."""
    by_stage = [[name for path in stage for name in _tensors(path, body)] for stage in stage_modules(body)]
    owned = {name for stage in by_stage for name in stage}
    direct = [name for name in _tensors("", body) if name not in owned]
    if direct and by_stage:
        by_stage[0] = direct + by_stage[0]
    elif direct:
        by_stage = [direct]
    return by_stage


def stage_modules(body: nn.Module) -> list[list[str]]:
    """Return the paths of the modules of each stage; the last one gives the stage's output."""
    by_stage: list[list[str]] = []
    for path, module in _blocks("", body):
        if is_norm(module) and by_stage:
            by_stage[-1].append(path)
        elif owns_parameters(module):
            by_stage.append([path])
    return by_stage


def _tensors(path: str, body: nn.Module) -> list[str]:
    names = body.get_submodule(path).state_dict(keep_vars=True)
    return [f"{path}.{name}" if path else name for name in names]


def _blocks(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children of ``module`` by path, with composite children opened where they are fewer than three."""
    children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
    composite = [child for _, child in children if not is_norm(child) and _is_composite(child)]
    opened = composite if len(composite) < 3 and not isinstance(module, nn.ModuleList) else []
    return [
        block
        for name, child in children
        for block in (_blocks(name, child) if child in opened else [(name, child)])
    ]


def _is_composite(module: nn.Module) -> bool:
    """Return whether several children of a module have parameters, or its only one that has is composite."""
    own = [child for child in module.children() if owns_parameters(child)]
    return len(own) > 1 or (len(own) == 1 and _is_composite(own[0]))


def owns_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@contextmanager
def seeded(*parts: str | int) -> Iterator[None]:
    """
    Let random numbers of the CPU depend on these parts only while the block lasts; the global generators are not changed.
    ``torch.manual_seed`` would also change those of GPUs, and keep a stack trace of each call where there is none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(*parts))
        yield
