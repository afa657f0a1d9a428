"""
Clipped sums of per-example gradients without the gradients: book-keeping with mixed ghost norms (Li et al., 2022;
Bu et al., 2022 and 2023).

One forward pass, and one backward pass that computes the gradients at the layers' outputs alone. What a layer's
input and its output's gradient say about each example's norm is taken first, and one weighted sum after that.
Must not know about noise or optimisers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl.silonorm import ChannelAffine

CACHE = 1 << 18  # numbers that are made and used at once: they fit into a processor's cache
MEMORY = 16  # multiplications that a processor does while it writes a number to memory and reads it again
MARGIN = 4  # roundings: how far a norm taken from products may lie below the true one, at most


class Unsupported(Exception):
    """The net has something that book-keeping does not know; per-example gradients by hooks may."""


class Page(NamedTuple):
    """What one parameter adds: to each example's squared norm [B], and, for factors [B], to the weighted sum."""

    squares: Tensor
    total: Callable[[Tensor], Tensor]


Pages = list[tuple[Tensor | None, Callable[[], Page]]]  # of a layer, by parameter


# The norms of the examples' gradients, and the sums of the gradients for a factor each.
Gradients = tuple[Tensor, Callable[[Tensor], list[Tensor]]]


def gradients(net: nn.Module, losses: Callable[[], Tensor]) -> Gradients:
    """
    The norm [B] of each example's gradient with respect to all of the net's moving parameters, and a function from
    factors [B] to the sums of the gradients, each times its factor, in the parameters' order and shapes.

    ``losses()`` gives the B examples' losses, through the net. Nothing is left in the net. Raises Unsupported.
    """
    moving = [weight for weight in net.parameters() if weight.requires_grad]
    values, tape = _taped(net, losses)
    book: dict[Tensor, Page] = {}
    squares = values.new_zeros(len(values))
    while (
        tape
    ):  # what has been seen is let go: memory that is given back and asked for again costs more than sums
        layer, x, g = tape.pop()
        if len(x) != len(values) or len(g) != len(values):
            raise Unsupported(f"{type(layer).__name__} does not see one row an example")
        for weight, page in LAYERS[type(layer)](layer, x.to(values), g.to(values)):
            if weight is not None and weight.requires_grad:
                book[weight] = page()
                squares += book[weight].squares

    def weighted(factors: Tensor) -> list[Tensor]:
        return [
            book[weight].total(factors).view_as(weight) if weight in book else torch.zeros_like(weight)
            for weight in moving
        ]

    return squares.sqrt(), weighted


Seen = tuple[nn.Module, Tensor, Tensor]  # a layer, its input and the gradient at its output


def _taped(net: nn.Module, losses: Callable[[], Tensor]) -> tuple[Tensor, list[Seen]]:
    layers = _layers(net)
    inputs: dict[nn.Module, tuple[Tensor, int]] = {}
    tape: list[Seen] = []

    def forward(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
        if layer in inputs:
            raise Unsupported(f"a {type(layer).__name__} is used twice")
        inputs[layer] = given[0].detach(), given[0]._version
        if not output.requires_grad:  # the first that moves; nobody could change a leaf in place, so a copy
            output = output.requires_grad_().clone()
        output.register_hook(partial(backward, layer))
        return output

    def backward(layer: nn.Module, g: Tensor) -> None:
        x, version = inputs[layer]
        if x._version != version:
            raise Unsupported(f"the input of a {type(layer).__name__} is changed in place after use")
        tape.append((layer, x, g))

    hooks = [layer.register_forward_hook(forward) for layer in layers]
    moving = [weight for weight in net.parameters() if weight.requires_grad]
    try:
        for weight in moving:
            weight.requires_grad_(False)
        values = losses()
        if values.requires_grad:
            values.sum().backward()
    finally:
        for weight in moving:
            weight.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    return values.detach(), tape


def _layers(net: nn.Module) -> list[nn.Module]:
    """The layers that own what moves. Raises Unsupported."""
    owned: dict[nn.Parameter, nn.Module] = {}
    for module in net.modules():
        for weight in module.parameters(recurse=False):
            if not weight.requires_grad:
                continue
            if type(module) not in LAYERS:
                raise Unsupported(f"no rule for {type(module).__name__}")
            if weight in owned and owned[weight] is not module:
                raise Unsupported(f"a {type(module).__name__} shares a parameter with another layer")
            owned[weight] = module
    return list(dict.fromkeys(owned.values()))


def _product(u: Callable[[slice], Tensor], g: Tensor, d: int) -> Page:
    """
    For gradients sum_t g_t u_t' with g [B, groups, T, o] and, for the examples asked for, u [B, groups, T, d].

    With T = 1 the norm is ||g|| ||u||. With few positions sum_st (u_s . u_t)(g_s . g_t) is cheaper than to write
    down the examples' o x d gradients and to read them again. Those products may cancel, and a norm that is too
    small would let a record exceed the clip, so that their roundings, below MARGIN eps ||u||^2 ||g||^2, are added.
    """
    n, groups, positions, o = g.shape
    if positions > 1 and positions**2 * (o + d) >= MEMORY * o * d:
        each = g.new_empty(n, groups, o, d)
        step = max(1, CACHE // (groups * positions * d))
        for part in (slice(start, start + step) for start in range(0, n, step)):
            torch.matmul(g[part].transpose(2, 3), u(part), out=each[part])
        return _each(each)
    seen = u(slice(None))
    if positions == 1:
        squares = (seen.square().sum(3) * g.square().sum(3)).sum((1, 2))
    else:
        uu, gg = seen @ seen.transpose(2, 3), g @ g.transpose(2, 3)
        most = uu.diagonal(dim1=2, dim2=3).sum(2) * gg.diagonal(dim1=2, dim2=3).sum(2)
        squares = (uu * gg).sum((1, 2, 3)).clamp_min(0) + MARGIN * torch.finfo(g.dtype).eps * most.sum(1)

    def total(factors: Tensor) -> Tensor:
        left = (g * factors.view(n, 1, 1, 1)).transpose(0, 1).reshape(groups, n * positions, o)
        return left.transpose(1, 2) @ seen.transpose(0, 1).reshape(groups, n * positions, d)

    return Page(squares, total)


def _each(gradients: Tensor) -> Page:
    """For gradients [B, ...] at hand."""
    flat = gradients.flatten(1)
    return Page(flat.square().sum(1), lambda factors: (factors @ flat).view(gradients.shape[1:]))


def _linear(layer: nn.Module, x: Tensor, g: Tensor) -> Pages:
    assert isinstance(layer, nn.Linear)
    u, rows = x.reshape(len(x), 1, -1, layer.in_features), g.reshape(len(g), 1, -1, layer.out_features)
    return [
        (layer.weight, lambda: _product(lambda part: u[part], rows, layer.in_features)),
        (layer.bias, lambda: _each(rows.sum((1, 2)))),
    ]


def _conv2d(layer: nn.Module, x: Tensor, g: Tensor) -> Pages:
    assert isinstance(layer, nn.Conv2d)
    groups, (high, wide) = layer.groups, layer.kernel_size
    rows = g.flatten(2).transpose(1, 2)  # [B, T, o]

    def weight() -> Page:
        def seen(part: slice) -> Tensor:
            u = _patches(layer, x[part]).reshape(
                -1, rows.shape[1], high * wide, groups, layer.in_channels // groups
            )
            return u.permute(0, 3, 1, 2, 4).flatten(3)

        page = _product(seen, rows.unflatten(2, (groups, -1)).transpose(1, 2), layer.weight[0].numel())

        def total(factors: Tensor) -> Tensor:
            kernels = page.total(factors).reshape(layer.out_channels, high, wide, -1)
            return kernels.permute(0, 3, 1, 2).contiguous()

        return Page(page.squares, total)

    return [(layer.weight, weight), (layer.bias, lambda: _each(rows.sum(1)))]


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What the kernel sees at each place: [B, height, width, *kernel, C], a view of the padded input."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode).permute(0, 2, 3, 1).contiguous()
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    places = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:3], reach, layer.stride, strict=True)]
    n, h, w, c = x.stride()
    (down, right), (dh, dw) = layer.stride, layer.dilation
    return x.as_strided(
        (len(x), *places, *layer.kernel_size, x.shape[3]), (n, h * down, w * right, h * dh, w * dw, c)
    )


def _channels(layer: nn.Module, x: Tensor, g: Tensor) -> Pages:
    assert isinstance(layer, ChannelAffine)
    return _scale_and_shift(layer, lambda: x, g)


def _group_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Pages:
    assert isinstance(layer, nn.GroupNorm)
    return _scale_and_shift(layer, lambda: F.group_norm(x, layer.num_groups, eps=layer.eps), g)


def _scale_and_shift(layer: nn.Module, x: Callable[[], Tensor], g: Tensor) -> Pages:
    """One scale and one shift a channel, over all places."""

    def summed(values: Tensor) -> Page:
        return _each(values.flatten(2).sum(2) if values.dim() > 2 else values)

    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return [(weight, lambda: summed(x() * g)), (bias, lambda: summed(g))]


def _layer_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Pages:
    assert isinstance(layer, nn.LayerNorm)
    shape = list(layer.normalized_shape)

    def summed(values: Tensor) -> Page:
        return _each(values.reshape(len(values), -1, *shape).sum(1))

    return [
        (layer.weight, lambda: summed(F.layer_norm(x, shape, eps=layer.eps) * g)),
        (layer.bias, lambda: summed(g)),
    ]


# By exact type: a subclass may do something else.
LAYERS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Pages]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    ChannelAffine: _channels,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
