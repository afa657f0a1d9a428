"""
A normalisation layer in front of a body, which scales the inputs by column or channel.

DP-AdaBN releases its statistics like those of every other layer, so they are charged, labelled, saved and exported in the
same way.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.dp_norm import FixedNorm
from fedtl.models.net import ModelSpec, Shape

INPUT_SCALE = "input_scale"  # the layer's name in the body


def with_input_scale(spec: ModelSpec, shape: Shape) -> ModelSpec:
    """
    Return the model with a first layer that normalises its inputs by column or channel; its constants start at 0 and 1.
    No other tensor changes its name. ``shape``: of one input. Raises ModelError.
    """
    body, norm = deepcopy(spec.body), FixedNorm(shape[0])
    if hasattr(body, INPUT_SCALE):
        raise ModelError(f"the model already has a layer named {INPUT_SCALE}")
    others = dict(body._modules.items())  # named_children() would omit a child that is used twice
    for name in others:  # the new layer must come first: statistics are released in order, from the input on
        delattr(body, name)
    for name, child in {INPUT_SCALE: norm, **others}.items():
        body.add_module(name, child)
    if not isinstance(body, nn.Sequential):  # which runs its first child anyway
        body.register_forward_pre_hook(_scaled)
    _check_runs_once(body, norm, shape)
    return replace(spec, body=body)


def _scaled(body: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *rest = inputs
    return (body.get_submodule(INPUT_SCALE)(first), *rest)


def _check_runs_once(body: nn.Module, norm: nn.Module, shape: Shape) -> None:
    calls: list[int] = []
    count: Callable[..., None] = lambda *_: calls.append(1)  # noqa: E731
    hook, training = norm.register_forward_hook(count), body.training
    try:
        with torch.no_grad():
            body.eval()(torch.zeros(1, *shape))
    finally:
        hook.remove()
        body.train(training)
    if len(calls) != 1:
        raise ModelError(
            f'data.scale = "dp": this model would run {INPUT_SCALE} {len(calls)} times instead of once; choose another model'
        )
