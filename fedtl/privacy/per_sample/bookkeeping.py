"""
Clipped sums of per-example gradients without the gradients: book-keeping with mixed ghost norms (Li et al., 2022;
Bu et al., 2022 and 2023).

One forward pass, and one backward pass that computes only the gradients at the layers' outputs. From a layer's input and
its output's gradient follows first each example's norm, and then one weighted sum. Must not know about noise or optimizers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl.models.dp_norm import ChannelAffine

FLOPS_PER_WRITE = (
    40  # multiplications that a processor does while it writes a number to memory and reads it again
)
MIN_CONV_CHANNELS = (
    8  # with fewer, a convolution leaves most of a vector unit idle, but a product of patches does not
)
ROUNDING_MARGIN = 4  # roundings: the most by which a norm computed from products may be below the true norm


class Unsupported(Exception):
    """The net has something that book-keeping cannot handle; per-example gradients by hooks may be able to."""


class LayerContribution(NamedTuple):
    """What one parameter adds to each example's squared norm [B] and, for factors [B], to the weighted sum."""

    squares: Tensor
    total: Callable[[Tensor], Tensor]


LayerContributions = list[tuple[Tensor | None, Callable[[], LayerContribution]]]  # of a layer, by parameter

# The norms [B] of the examples' gradients, and a function from factors [B] to the weighted sums of the gradients.
Gradients = tuple[Tensor, Callable[[Tensor], list[Tensor]]]


def gradients(net: nn.Module, losses: Callable[[], Tensor]) -> Gradients:
    """
    Return the norm [B] of each example's gradient with respect to all trainable parameters of the net, and a function from
    factors [B] to the sums of the gradients, each times its factor, in the parameters' order and shapes.

    ``losses()`` returns the B examples' losses, through the net. Nothing is left in the net. Raises Unsupported.
    """
    trainable = [weight for weight in net.parameters() if weight.requires_grad]
    if not trainable:
        raise Unsupported("no parameter is trainable")
    wanted: set[Tensor | None] = set(trainable)
    found: dict[Tensor | None, LayerContribution] = {}

    def record(layer: nn.Module, x: Tensor, g: Tensor) -> None:
        exact = trainable[0].dtype  # under autocast, inputs and gradients are rounded to fewer bits
        for weight, contribution in LAYERS[type(layer)](layer, x.to(exact), g.to(exact)):
            if weight in wanted:
                found[weight] = contribution()

    values = _pass(net, losses, trainable, record)
    if any(len(contribution.squares) != len(values) for contribution in found.values()):
        raise Unsupported("a layer's input does not have one row for each example")
    none = trainable[0].new_zeros(len(values))  # in case the losses reach no layer
    squares = torch.stack([none, *(contribution.squares for contribution in found.values())]).sum(0)

    def weighted(factors: Tensor) -> list[Tensor]:
        return [
            found[weight].total(factors).view_as(weight) if weight in found else torch.zeros_like(weight)
            for weight in trainable
        ]

    return squares.sqrt(), weighted


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
            if type(module) not in LAYERS:
                raise Unsupported(f"no rule for {type(module).__name__}")
            if weight in owned and owned[weight] is not module:
                raise Unsupported(f"a {type(module).__name__} shares a parameter with another layer")
            owned[weight] = module
    return list(dict.fromkeys(owned.values()))


def _product(
    u: Callable[[], Tensor], g: Tensor, d: int, each: Callable[[], Tensor], total: Callable[[Tensor], Tensor]
) -> LayerContribution:
    """
    Return the contribution for gradients sum_t g_t u_t' with g [B, groups, T, o] and u [B, groups, T, d].

    ``each`` computes the examples' gradients, and ``total`` their weighted sum without them. With T = 1 the norm is
    ||g|| ||u||. With few positions sum_st (u_s . u_t)(g_s . g_t) is cheaper than writing the examples' o x d gradients
    to memory and reading them again. These products may cancel, and a norm that is too small would let a record exceed the
    clip. So they are computed in double precision, and the most that rounding can add to a gradient that cancels, below
    ROUNDING_MARGIN eps ||u||^2 ||g||^2 of its square, is added.
    """
    positions, o = g.shape[2:]
    if positions > 1 and positions**2 * (o + d) >= FLOPS_PER_WRITE * o * d:
        return _each(each())
    inputs = u()
    if positions == 1:
        return LayerContribution((inputs.square().sum(3) * g.square().sum(3)).sum((1, 2)), total)
    uu, gg = (rows @ rows.transpose(2, 3) for rows in (inputs.double(), g.double()))
    most = uu.diagonal(dim1=2, dim2=3).sum(2) * gg.diagonal(dim1=2, dim2=3).sum(2)
    squares = (uu * gg).sum((1, 2, 3)).clamp_min(0) + ROUNDING_MARGIN * torch.finfo(g.dtype).eps * most.sum(1)
    return LayerContribution(squares.to(g.dtype), total)


def _each(gradients: Tensor) -> LayerContribution:
    """Return the contribution for the examples' gradients [B, ...]."""
    flat = gradients.flatten(1)
    return LayerContribution(
        torch.linalg.vector_norm(flat, dim=1).square(),
        lambda factors: (factors @ flat).view(gradients.shape[1:]),
    )


def _linear(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, nn.Linear)
    u, rows = x.reshape(len(x), -1, layer.in_features), g.reshape(len(g), -1, layer.out_features)

    def each() -> Tensor:
        return rows.transpose(1, 2) @ u

    def total(factors: Tensor) -> Tensor:
        return (rows * factors.view(-1, 1, 1)).flatten(0, 1).T @ u.flatten(0, 1)

    return [
        (
            layer.weight,
            lambda: _product(lambda: u[:, None], rows[:, None], layer.in_features, each, total),
        ),
        (layer.bias, lambda: _each(rows.sum(1))),
    ]


def _conv2d(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, nn.Conv2d)
    padding: tuple[int, ...] = (0, 0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    around = layer._reversed_padding_repeated_twice
    if mode == "constant" and not isinstance(layer.padding, str):
        padding = layer.padding
    else:
        x = F.pad(x, around, mode)
    rows = g.flatten(2).transpose(1, 2)  # [B, T, o]
    by_group = rows.unflatten(2, (layer.groups, -1)).transpose(1, 2)

    narrow = layer.weight.shape[1] < MIN_CONV_CHANNELS

    def patches() -> Tensor:
        """
        Return the kernel's input at each position: [B, groups, T, d], d in the weight's order if it is narrow. Copied in
        contiguous runs of memory, because F.unfold takes two to fifteen times as long.
        """
        view = x.contiguous(memory_format=torch.contiguous_format if narrow else torch.channels_last)
        view = (F.pad(view, around) if any(padding) else view).unflatten(1, (layer.groups, -1))
        for axis, size, dilation, step in zip(
            (3, 4), layer.kernel_size, layer.dilation, layer.stride, strict=True
        ):
            view = view.unfold(axis, (size - 1) * dilation + 1, step)[..., ::dilation]
        if narrow:
            return view.permute(0, 1, 2, 5, 6, 3, 4).flatten(5).flatten(2, 4).transpose(2, 3)
        return view.permute(0, 1, 3, 4, 5, 6, 2).flatten(4).flatten(2, 3)

    def kernels(x: Tensor, g: Tensor, examples: int) -> Tensor:
        """Return the gradients of that many examples' kernels, each of which has its own channels as input."""
        like = g.new_empty(examples * layer.out_channels, *layer.weight.shape[1:])
        groups, only_the_kernels = examples * layer.groups, (False, True, False)
        # As torch.nn.grad.conv2d_weight, which would first allocate a whole kernel.
        gradient: Tensor = torch.ops.aten.convolution_backward(
            g, x, like, None, layer.stride, padding, layer.dilation, False, (0, 0), groups, only_the_kernels
        )[1]
        return gradient

    def each() -> Tensor:
        if narrow:
            return (patches().transpose(2, 3) @ by_group).transpose(2, 3).reshape(-1, *layer.weight.shape)
        # One convolution with a group for each example (Rochette et al., 2019).
        gradients = kernels(x.reshape(1, -1, *x.shape[2:]), g.reshape(1, -1, *g.shape[2:]), len(x))
        return gradients.view(len(x), *layer.weight.shape)

    def weight() -> LayerContribution:
        return _product(
            patches,
            by_group,
            layer.weight[0].numel(),
            each,
            lambda factors: kernels(x, g * factors.view(-1, 1, 1, 1), 1),
        )

    return [(layer.weight, weight), (layer.bias, lambda: _each(rows.sum(1)))]


def _channels(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, ChannelAffine)
    return _scale_and_shift(layer, lambda: x, g)


def _group_norm(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, nn.GroupNorm)
    return _scale_and_shift(layer, lambda: F.group_norm(x, layer.num_groups, eps=layer.eps), g)


def _scale_and_shift(layer: nn.Module, x: Callable[[], Tensor], g: Tensor) -> LayerContributions:
    """Return the contributions of one scale and one shift for each channel, over all positions."""

    def summed(values: Tensor) -> LayerContribution:
        return _each(values.flatten(2).sum(2) if values.dim() > 2 else values)

    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return [(weight, lambda: summed(x() * g)), (bias, lambda: summed(g))]


def _layer_norm(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, nn.LayerNorm)
    shape = list(layer.normalized_shape)

    def summed(values: Tensor) -> LayerContribution:
        return _each(values.reshape(len(values), -1, *shape).sum(1))

    return [
        (layer.weight, lambda: summed(F.layer_norm(x, shape, eps=layer.eps) * g)),
        (layer.bias, lambda: summed(g)),
    ]


# By exact type, because a subclass may do something else.
LAYERS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], LayerContributions]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    ChannelAffine: _channels,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
