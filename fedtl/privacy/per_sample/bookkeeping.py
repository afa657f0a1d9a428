"""
Clipped sums of per-example gradients without the gradients: book-keeping with mixed ghost norms (Li et al., 2022;
Bu et al., 2022 and 2023).

One forward pass, and one backward pass that computes only the gradients at the layers' outputs. From a layer's input and
its output's gradient follows first each unit's norm, and then one weighted sum. The gradient of a unit of several rows is the sum
of its rows' gradients; for a layer, its rows are further positions of one row. This module must not depend on noise or optimizers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedtl.privacy.per_sample.layer_rules import LAYERS, LayerContribution, LayerContributions, has_rule
from fedtl.privacy.per_sample.unit_rows import Units


class Unsupported(Exception):
    """The net has something that book-keeping cannot handle; per-example gradients by hooks may be able to."""


# The norms [U] of the units' gradients, and a function from factors [U] to the weighted sums of the gradients.
Gradients = tuple[Tensor, Callable[[Tensor], list[Tensor]]]


def gradients(net: nn.Module, losses: Callable[[], Tensor], units: Tensor | None = None) -> Gradients:
    """
    Return the norm [U] of each unit's gradient with respect to all trainable parameters of the net, and a function from
    factors [U] to the sums of the gradients, each times its factor, in the parameters' order and shapes.

    ``losses()`` returns the B rows' losses, through the net. ``units`` [B]: the number of each row's unit; the norms are in
    ascending order of these numbers. None: each row is a unit. Nothing is left in the net. Raises Unsupported.
    """
    trainable = [weight for weight in net.parameters() if weight.requires_grad]
    if not trainable:
        raise Unsupported("no parameter is trainable")
    wanted: set[Tensor | None] = set(trainable)
    contributions: dict[Tensor | None, LayerContribution] = {}
    several = None if units is None else Units.of(units, trainable[0].device)
    rows: set[int] = set()

    def record(layer: nn.Module, x: Tensor, g: Tensor) -> None:
        rows.add(len(x))
        if units is not None and len(x) != len(units):
            return
        exact = trainable[0].dtype  # under autocast, inputs and gradients are rounded to fewer bits
        for weight, contribution in contributions_of(layer, x.to(exact), g.to(exact)):
            if weight in wanted:
                contributions[weight] = contribution()

    contributions_of = _each_row if several is None else several.contributions
    values = _pass(net, losses, trainable, record)
    if rows - {len(values)}:
        raise Unsupported("a layer's input does not have one row for each example")
    none = trainable[0].new_zeros(len(values) if several is None else several.count)
    # With ``none`` there is something to stack where the losses depend on no layer.
    squares = torch.stack([none, *(contribution.squares for contribution in contributions.values())]).sum(0)

    def weighted(factors: Tensor) -> list[Tensor]:
        return [
            contributions[weight].total(factors).view_as(weight)
            if weight in contributions
            else torch.zeros_like(weight)
            for weight in trainable
        ]

    return squares.sqrt(), weighted


def _each_row(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    """Return what a layer contributes where each row is a unit."""
    return LAYERS[type(layer)](layer, x[:, None], g[:, None])


def _pass(
    net: nn.Module,
    losses: Callable[[], Tensor],
    trainable: list[nn.Parameter],
    record: Callable[[nn.Module, Tensor, Tensor], None],
) -> Tensor:
    """
    Return the losses. ``record`` is called with each layer, its input and the gradient at its output. These are released
    at once, because returning memory and requesting it again costs more than the sums.
    """
    inputs: dict[nn.Module, tuple[Tensor, int]] = {}
    used: set[nn.Module] = set()
    start = trainable[0].new_zeros((), requires_grad=True)

    def forward(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
        if not given:
            raise Unsupported(f"a {type(layer).__name__} gets its input as a keyword argument")
        if layer in used:
            raise Unsupported(f"a {type(layer).__name__} is used twice")
        used.add(layer)
        inputs[layer] = given[0].detach(), given[0]._version
        if output._is_view():  # a hook on a view is lost when the view is changed in place
            output = output.clone()
        if not output.requires_grad:  # the first trainable layer
            output = _StartGradients.apply(output, start)  # type: ignore[no-untyped-call]
        output.register_hook(partial(backward, layer))
        return output

    def backward(layer: nn.Module, g: Tensor) -> None:
        x, version = inputs.pop(layer)
        if x._version != version:
            raise Unsupported(f"the input of a {type(layer).__name__} is changed in place after use")
        if len(x) != len(g):
            raise Unsupported(f"the input of a {type(layer).__name__} does not have one row for each example")
        record(layer, x, g)

    hooks = [layer.register_forward_hook(forward) for layer in _layers(net)]
    try:
        for weight in trainable:
            weight.requires_grad_(False)
        values = losses()
        if values.requires_grad:
            torch.autograd.grad(values.sum(), start)
    finally:
        for weight in trainable:
            weight.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    return values.detach()


class _StartGradients(torch.autograd.Function):
    """
    Makes a tensor require gradients. requires_grad_() would make it a leaf, which must not be changed in place, and torch
    would keep a copy of its gradient.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, start: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[None, Tensor]:
        return None, g[0].new_zeros(())


def _layers(net: nn.Module) -> list[nn.Module]:
    """Return the layers that own trainable parameters. Raises Unsupported."""
    owned: dict[nn.Parameter, nn.Module] = {}
    for module in net.modules():
        for weight in module.parameters(recurse=False):
            if not weight.requires_grad:
                continue
            if not has_rule(module):
                raise Unsupported(f"no rule for {type(module).__name__}")
            if weight in owned and owned[weight] is not module:
                raise Unsupported(f"a {type(module).__name__} shares a parameter with another layer")
            owned[weight] = module
    return list(dict.fromkeys(owned.values()))
