"""
What each kind of layer adds to the gradient norms of the units and to their weighted sum, from its input and the gradient at its
output: the rules that ``bookkeeping`` applies. Both have shape [U, k, ...]: k rows of each of U units. Where each row is a unit
by itself, k is 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
ROUNDING_MARGIN = 4  # in roundings: a norm computed from products may be this much below the true norm


class LayerContribution(NamedTuple):
    """What one parameter adds to each unit's squared norm [U] and, for factors [U], to the weighted sum."""

    squares: Tensor
    total: Callable[[Tensor], Tensor]


LayerContributions = list[
    tuple[Tensor | None, Callable[[], LayerContribution]]
]  # the contributions of a layer, by parameter


def _product(
    u: Callable[[], Tensor], g: Tensor, d: int, each: Callable[[], Tensor], total: Callable[[Tensor], Tensor]
) -> LayerContribution:
    """
    Return the contribution for gradients sum_t g_t u_t' with g [U, groups, T, o] and u [U, groups, T, d], where T counts the
    positions of all rows of a unit.

    ``each`` computes the units' gradients, and ``total`` their weighted sum without them. With T = 1 the norm is
    ||g|| ||u||. With few positions sum_st (u_s . u_t)(g_s . g_t) is cheaper than writing the units' o x d gradients
    to memory and reading them again. A norm that is too small would let a record exceed the clip: the squares of small numbers,
    which large ones multiply, are 0 in float32, and products may cancel. So both are computed in double precision, and the most
    that rounding can add to a gradient that cancels, below ROUNDING_MARGIN eps ||u||^2 ||g||^2 of its square, is added.
    """
    positions, o = g.shape[2:]
    if positions > 1 and positions**2 * (o + d) >= FLOPS_PER_WRITE * o * d:
        return _each(each())
    inputs = u()
    if positions == 1:
        squares = (inputs.double().square().sum(3) * g.double().square().sum(3)).sum((1, 2))
        return LayerContribution(squares.to(g.dtype), total)
    uu, gg = (rows @ rows.transpose(2, 3) for rows in (inputs.double(), g.double()))
    most = uu.diagonal(dim1=2, dim2=3).sum(2) * gg.diagonal(dim1=2, dim2=3).sum(2)
    squares = (uu * gg).sum((1, 2, 3)).clamp_min(0) + ROUNDING_MARGIN * torch.finfo(g.dtype).eps * most.sum(1)
    return LayerContribution(squares.to(g.dtype), total)


def _each(gradients: Tensor) -> LayerContribution:
    """Return the contribution for the units' gradients [U, ...]."""
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
    conv = _Conv2d.of(layer, x, g)
    return [(layer.weight, conv.weight), (layer.bias, lambda: _each(conv.rows.sum(1)))]


@dataclass(frozen=True)
class _Conv2d:
    """One convolution of inputs ``x`` [U, k, C, H, W] with zero ``padding``, and the gradient ``g`` at its output."""

    layer: nn.Conv2d
    x: Tensor
    g: Tensor
    padding: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Conv2d, x: Tensor, g: Tensor) -> "_Conv2d":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        if mode == "constant" and not isinstance(layer.padding, str):
            return cls(layer, x, g, layer.padding)
        padded = F.pad(x.flatten(0, 1), layer._reversed_padding_repeated_twice, mode)
        return cls(layer, padded.unflatten(0, x.shape[:2]), g, (0, 0))

    @property
    def rows(self) -> Tensor:
        return self.g.flatten(3).transpose(2, 3).flatten(1, 2)  # [U, T, o]

    @property
    def narrow(self) -> bool:
        return self.layer.weight.shape[1] < MIN_CONV_CHANNELS

    def weight(self) -> LayerContribution:
        d = self.layer.weight[0].numel()
        return _product(self.patches, self._rows_by_group(), d, self.gradients, self.weighted_gradient)

    def patches(self) -> Tensor:
        """
        Return the kernel's input at each position: [U, groups, T, d], d in the weight's order if it is narrow. Copied in
        contiguous runs of memory, because F.unfold takes two to fifteen times as long.
        """
        of_rows = self._patches_of_rows().unflatten(0, self.x.shape[:2])
        return of_rows.transpose(1, 2).flatten(2, 3)

    def _patches_of_rows(self) -> Tensor:
        layer, memory = self.layer, torch.contiguous_format if self.narrow else torch.channels_last
        view = self.x.flatten(0, 1).contiguous(memory_format=memory)
        if any(self.padding):
            view = F.pad(view, layer._reversed_padding_repeated_twice)
        view = view.unflatten(1, (layer.groups, -1))
        for axis, size, dilation, step in zip(
            (3, 4), layer.kernel_size, layer.dilation, layer.stride, strict=True
        ):
            view = view.unfold(axis, (size - 1) * dilation + 1, step)[..., ::dilation]
        if self.narrow:
            return view.permute(0, 1, 2, 5, 6, 3, 4).flatten(5).flatten(2, 4).transpose(2, 3)
        return view.permute(0, 1, 3, 4, 5, 6, 2).flatten(4).flatten(2, 3)

    def gradients(self) -> Tensor:
        """Return each unit's gradient."""
        units = len(self.x)
        if self.narrow:
            products = self.patches().transpose(2, 3) @ self._rows_by_group()
            return products.transpose(2, 3).reshape(units, *self.layer.weight.shape)
        # One convolution with a group for each unit (Rochette et al., 2019), whose batch is the unit's rows.
        x, g = (each.transpose(0, 1).flatten(1, 2) for each in (self.x, self.g))
        return self._kernels(x, g, units).view(units, *self.layer.weight.shape)

    def weighted_gradient(self, factors: Tensor) -> Tensor:
        weighted = self.g * factors.view(-1, 1, 1, 1, 1)
        return self._kernels(self.x.flatten(0, 1), weighted.flatten(0, 1), 1)

    def _rows_by_group(self) -> Tensor:
        return self.rows.unflatten(2, (self.layer.groups, -1)).transpose(1, 2)

    def _kernels(self, x: Tensor, g: Tensor, units: int) -> Tensor:
        """Return the gradients of that many units' kernels, each of which has its own channels as input."""
        layer = self.layer
        like = g.new_empty(units * layer.out_channels, *layer.weight.shape[1:])
        groups, only_the_kernels = units * layer.groups, (False, True, False)
        # As torch.nn.grad.conv2d_weight, which would first allocate a whole kernel.
        gradient: Tensor = torch.ops.aten.convolution_backward(
            *(g, x, like, None, layer.stride, self.padding, layer.dilation),
            *(False, (0, 0), groups, only_the_kernels),
        )[1]
        return gradient


def _channels(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, ChannelAffine)
    return _scale_and_shift(layer, lambda: x, g)


def _group_norm(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    assert isinstance(layer, nn.GroupNorm)

    def normalised() -> Tensor:
        return F.group_norm(x.flatten(0, 1), layer.num_groups, eps=layer.eps).unflatten(0, x.shape[:2])

    return _scale_and_shift(layer, normalised, g)


def _scale_and_shift(layer: nn.Module, x: Callable[[], Tensor], g: Tensor) -> LayerContributions:
    """Return the contributions of one scale and one shift for each channel, over all positions."""

    def summed(values: Tensor) -> LayerContribution:
        return _each(values.transpose(1, 2).flatten(2).sum(2))  # over a unit's rows and their positions

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


def _embedding(layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
    """
    The gradient is sum_t e_t g_t' with e_t the unit vector of the code at position t, so its squared norm is the sum of g_s . g_t over the
    positions s, t of equal codes; the margin is that of ``_product``, with ||e||^2 = T. The code of padding has no gradient.
    """
    assert isinstance(layer, nn.Embedding)
    codes, rows = x.reshape(len(x), -1).long(), g.reshape(len(g), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        rows = rows * (codes != layer.padding_idx).unsqueeze(2)

    def contribution() -> LayerContribution:
        gg = rows.double() @ rows.double().transpose(1, 2)
        most = codes.shape[1] * gg.diagonal(dim1=1, dim2=2).sum(1)
        squares = (gg * (codes[:, :, None] == codes[:, None])).sum((1, 2)).clamp_min(0)
        squares = squares + ROUNDING_MARGIN * torch.finfo(g.dtype).eps * most
        return LayerContribution(squares.to(g.dtype), total)

    def total(factors: Tensor) -> Tensor:
        weighted = (rows * factors.view(-1, 1, 1)).flatten(0, 1)
        return torch.zeros_like(layer.weight).index_add_(0, codes.flatten(), weighted)

    return [(layer.weight, contribution)]


# By exact type, because a subclass may do something else.
LAYERS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], LayerContributions]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    ChannelAffine: _channels,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}


def has_rule(layer: nn.Module) -> bool:
    """Return whether there is a rule for the layer, whose gradient depends on nothing but its own input and output."""
    if isinstance(layer, nn.Embedding) and (
        layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse
    ):
        return False
    return type(layer) in LAYERS
