"""Which rows belong to which unit, arranged so that the rules of layers see the rows of many units at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtl.privacy.per_sample.layer_rules import LAYERS, LayerContribution, LayerContributions


@dataclass(frozen=True)
class UnitRows:
    """
    The rows of U units, each of at most k rows: ``rows`` [U, k] are their numbers. Where a unit has fewer rows, its first one is repeated;
    ``real`` [U, k] is False for a repeated row. ``units`` [U]: the numbers of these units among all.
    """

    units: Tensor
    rows: Tensor
    real: Tensor

    def inputs(self, x: Tensor) -> Tensor:
        """Return [U, k, ...] of the rows [B, ...]."""
        return x[self.rows]

    def output_gradients(self, g: Tensor) -> Tensor:
        """Return [U, k, ...] of the rows [B, ...]: 0 for a repeated row, so that it adds nothing to a gradient."""
        return g[self.rows] * self.real.view(*self.real.shape, *[1] * (g.dim() - 1))


@dataclass(frozen=True)
class Units:
    """All units of B rows, in groups of similar size: each unit has at least half the number of rows of the largest one in its group."""

    groups: Sequence[UnitRows]
    count: int

    @classmethod
    def of(cls, units: Tensor, device: torch.device) -> "Units":
        """Return the units of the rows whose unit has the number ``units`` [B]; units are in ascending order of their numbers."""
        order = units.argsort(stable=True)
        sizes = units[order].unique_consecutive(return_counts=True)[1]
        starts, widths = sizes.cumsum(0) - sizes, 2 ** sizes.double().log2().ceil().long()
        groups = []
        for width in widths.unique().tolist():
            which = (widths == width).nonzero().flatten()
            places = torch.arange(width).expand(len(which), width)
            real = places < sizes[which, None]
            rows = order[starts[which, None] + places.where(real, 0)]
            groups.append(UnitRows(*(part.to(device) for part in (which, rows, real))))
        return cls(groups, len(sizes))

    def contributions(self, layer: nn.Module, x: Tensor, g: Tensor) -> LayerContributions:
        """Return what a layer contributes, from its input and the gradient at its output, of all rows [B, ...]."""
        of_groups = [
            LAYERS[type(layer)](layer, group.inputs(x), group.output_gradients(g)) for group in self.groups
        ]
        return [
            (parts[0][0], lambda parts=parts: self._joined([make() for _, make in parts]))  # type: ignore[misc]
            for parts in zip(*of_groups, strict=True)
        ]

    def _joined(self, parts: Sequence[LayerContribution]) -> LayerContribution:
        squares = parts[0].squares.new_empty(self.count)
        for group, part in zip(self.groups, parts, strict=True):
            squares[group.units] = part.squares

        def total(factors: Tensor) -> Tensor:
            sums: Iterator[Tensor] = (
                part.total(factors[group.units]) for group, part in zip(self.groups, parts, strict=True)
            )
            return torch.stack(list(sums)).sum(0)

        return LayerContribution(squares, total)
