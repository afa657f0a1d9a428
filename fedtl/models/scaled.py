"""
A norm in front of a body, which scales the inputs by channel: its statistics are released by DP-AdaBN like those of any
other norm, so they are charged, labelled, kept and exported in the same way.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.dp_norm import FixedNorm
from fedtl.models.net import ModelSpec, Shape

INPUT_SCALE = "input_scale"  # the norm's name in the body


def with_input_scale(plan: ModelSpec, shape: Shape) -> ModelSpec:
    """
    The same model, whose body first normalises its inputs by column or channel with constants, at first 0 and 1. No
    other tensor changes its name. ``shape``: of one input. Raises ModelError.
    """
    body, norm = deepcopy(plan.body), FixedNorm(shape[0])
    if hasattr(body, INPUT_SCALE):
        raise ModelError(f"the model has a layer named {INPUT_SCALE} already")
    others = dict(body._modules.items())  # a child that stands in two places included
    for name in others:  # first in order, as statistics are released from the input on
        delattr(body, name)
    for name, child in {INPUT_SCALE: norm, **others}.items():
        body.add_module(name, child)
    if not isinstance(body, nn.Sequential):  # which runs its first child anyway
        body.register_forward_pre_hook(_scaled)
    _check_runs_once(body, norm, shape)
    return replace(plan, body=body)


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
            f'data.scale = "dp": this model would scale its inputs {len(calls)} times; choose another model'
        )
