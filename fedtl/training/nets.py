"""
The nets of a process, made when they are first needed and kept: training and evaluation have nets of their own, so that
an evaluation never disturbs a net that is being trained.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

import torch
from torch import nn

from fedtl.errors import ConfigError
from fedtl.methods.base import Phase
from fedtl.methods.losses import Loss, Term
from fedtl.models.net import ModelSpec, Net, Shape
from fedtl.privacy.per_sample.clipping import GradientMethod


class Use(StrEnum):
    """What a net is for."""

    TRAINING = "training"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class NetKey:
    """All that a net depends on. ``width``: the number of outputs of its head."""

    spec: ModelSpec
    terms: tuple[Term, ...]
    width: int
    device: torch.device
    use: Use


@dataclass(frozen=True)
class PrivatePhase:
    """
    All that decides how the per-example gradients of a private phase can be taken. ``terms``: of its objective; ``net``: with
    the modules of all terms of the method; ``dtype``: one of ``precision.DTYPES``.
    """

    phase: Phase
    terms: tuple[Term, ...]
    freeze: int
    unit: str
    net: NetKey
    dtype: str


@dataclass(frozen=True)
class Cache:
    """
    What is made once in a process: bodies and nets by what they depend on, and how the per-example
    gradients of a private phase are computed. Trainers that ``dataclasses.replace`` makes from one share its cache.
    """

    bodies: dict[tuple[ModelSpec, torch.device, Use], ModelSpec] = field(default_factory=dict)
    nets: dict[NetKey, Net] = field(default_factory=dict)
    gradient_methods: dict[PrivatePhase, GradientMethod] = field(default_factory=dict)

    def net(self, key: NetKey) -> Net:
        """Return the net of this key. Nets of one use share a body, which is a copy of the model's."""
        if key not in self.nets:
            shared = (key.spec, key.device, key.use)
            if shared not in self.bodies:
                self.bodies[shared] = replace(key.spec, body=deepcopy(key.spec.body))
            net = new_net(self.bodies[shared], key.terms, key.width).to(key.device)
            self.nets[key] = in_channels_last(net)
        return self.nets[key]


def in_channels_last(net: Net) -> Net:
    """Return the net with the weights of convolutions of images in the fast memory format; others, of volumes too, as they are."""
    for weight in net.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    return net


def new_net(spec: ModelSpec, terms: tuple[Term, ...], width: int) -> Net:
    """
    Return a net over the spec's own body, with a new head of ``width`` outputs and the modules that the terms add.
    Raises ConfigError where two terms add a module of the same name, and where a term needs a layer that the net does not have.
    """
    taken: dict[str, str] = {}

    def modules_of(term: Term, features: int, shape: Shape) -> Mapping[str, nn.Module]:
        modules = term.modules(features, shape)
        for name in modules:
            if name in taken:
                raise ConfigError(
                    f"the terms {taken[name]} and {type(term).__name__} both add a module {name!r}; use one of them"
                )
            taken[name] = type(term).__name__
        return modules

    net = spec.net(width, (partial(modules_of, term) for term in terms))
    _check_layers(net, terms)
    return net


def _check_layers(net: Net, terms: tuple[Term, ...]) -> None:
    known = [path for path, _ in net.named_modules() if path]
    for term in terms:
        for path in term.needs_layers if isinstance(term, Loss) else ():
            if path not in known:
                raise ConfigError(
                    f"{type(term).__name__}: the model has no layer {path!r}; it has {', '.join(known[:20])}"
                )
