"""A model with adapters: which layers of the body get one, and which tensors of the body then never move."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.adapters import CHILD, Adapter, Bottleneck, Layer, LowRank, add_adapter, weight_name
from fedtl.models.attention import unsuitable
from fedtl.models.net import ModelSpec, Shape, seeded
from fedtl.models.roles import Role, roles

Kind = Literal["ffa-lora", "lora", "bottleneck"]
GROUPS = ("linear", "conv", "attention")  # of layers, by type
EVERY = "*"  # a pattern that every path matches
AT = "model.adapters.where"


@dataclass(frozen=True)
class AdapterPlan:
    """
    ``rank``: of the change, or the width of the bottleneck. ``alpha``: the change is scaled by alpha / rank; None: by 1.
    ``where``: layers of the body, by their group or by patterns of their paths such as "blocks.*.attn.qkv"; (): all.
    """

    kind: Kind = "ffa-lora"
    rank: int = 8
    alpha: float | None = None
    where: Sequence[str] = ()

    def adapter(self, layer: Layer) -> Adapter:
        """Return a new adapter of the layer."""
        if self.kind == "bottleneck":
            return Bottleneck(layer, self.rank)
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        fixed = frozenset({"down"} if self.kind == "ffa-lora" else ())
        return LowRank(layer, self.rank, scale, fixed)


def with_adapters(spec: ModelSpec, plan: AdapterPlan, shape: Shape, norms: bool = False) -> ModelSpec:
    """
    Return the model with an adapter in each chosen layer of its body; it computes the same until they are trained. Everything
    else in the body is frozen, except, with ``norms``, scale and shift of its normalisation layers. ``shape``: of one input.

    The adapters' initial weights depend only on the seed and on the layers' paths. No other tensor changes its name. Raises
    ModelError where an entry of ``where`` matches no layer that can have an adapter.
    """
    body = deepcopy(spec.body)
    for path, layer in _chosen(body, plan.where, shape).items():
        with seeded(spec.seed, "adapter", path):
            add_adapter(layer, plan.adapter(layer))
    frozen = {Role.BODY} if norms else {Role.BODY, Role.NORM}
    adapted = replace(spec, body=body)
    names = (name for name, role in roles(adapted.net(1)).items() if role in frozen)
    return replace(adapted, frozen=frozenset(name for name in names if name.startswith("body.")))


def has_adapters(spec: ModelSpec) -> bool:
    return any(isinstance(module, Adapter) for module in spec.body.modules())


def _chosen(body: nn.Module, where: Sequence[str], shape: Shape) -> dict[str, Layer]:
    """Return the layers that get an adapter, by their paths, in the body's order."""
    layers = {path: layer for path, layer in body.named_modules() if isinstance(layer, Layer)}
    reasons = dict(_unsuitable(body, layers, shape))
    wanted: set[str] = set()
    for entry in where or [EVERY]:
        matching = [path for path, layer in layers.items() if _matches(entry, path, layer, body)]
        if not (suitable := [path for path in matching if path not in reasons]):
            raise ModelError(_nothing(entry, matching, layers, reasons))
        wanted.update(suitable)
    return {path: layer for path, layer in layers.items() if path in wanted}


def _matches(entry: str, path: str, layer: Layer, body: nn.Module) -> bool:
    if entry == "attention":
        if isinstance(layer, nn.MultiheadAttention):
            return True
        parent = type(body.get_submodule(path.rpartition(".")[0])).__name__.lower()
        return isinstance(layer, nn.Linear) and ("attention" in parent or "attn" in parent)
    if entry in GROUPS:
        return isinstance(layer, nn.Linear if entry == "linear" else nn.Conv2d)
    return fnmatchcase(path, entry)


def _unsuitable(body: nn.Module, layers: dict[str, Layer], shape: Shape) -> Iterator[tuple[str, str]]:
    """Yield the path of each layer that cannot have an adapter, and why."""
    owners = Counter(id(weight) for module in body.modules() for weight in module.parameters(recurse=False))
    called = _called(body, layers, shape)
    for path, layer in layers.items():
        if type(layer) not in (nn.Linear, nn.Conv2d, nn.MultiheadAttention):
            yield path, f"it is a {type(layer).__name__}, which may do something else with its weight"
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            yield path, f"its channels are in {layer.groups} groups"
        elif isinstance(layer, nn.MultiheadAttention) and (reason := unsuitable(layer)):
            yield path, reason
        elif owners[id(layer._parameters.get(weight_name(layer)))] != 1:
            yield path, "its weight is not its own alone"
        elif path not in called:
            yield path, "the model uses its weight without calling it"
        elif hasattr(layer, CHILD):
            yield path, f"it already has a part named {CHILD}"


@torch.no_grad()
def _called(body: nn.Module, layers: dict[str, Layer], shape: Shape) -> set[str]:
    """Return the paths of the layers that the body calls, with the input as the first argument."""
    called: set[str] = set()

    def note(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: called.add(path) if inputs else None

    hooks = [layer.register_forward_hook(note(path)) for path, layer in layers.items()]
    training = body.training
    try:
        body.eval()(torch.zeros(2, *shape))
    finally:
        body.train(training)
        for hook in hooks:
            hook.remove()
    return called


def _nothing(entry: str, matching: list[str], layers: dict[str, Layer], reasons: dict[str, str]) -> str:
    if matching:
        return f"{AT}: {matching[0]} matches {entry!r}, but cannot have an adapter: {reasons[matching[0]]}"
    known = ", ".join([path for path in layers if path not in reasons][:8]) or "none that can have an adapter"
    return f"{AT}: no layer of the body matches {entry!r}; use linear, conv, attention or a path; its layers: {known}"
