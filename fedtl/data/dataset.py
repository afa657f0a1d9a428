"""What a silo learns from, as values: rows, and one silo's data. Examples exist in ``fedtl/data`` and ``fedtl/training``, nowhere else."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.data.origins import LEARNED, Origins


@dataclass(frozen=True)
class Dataset:
    """
    ``x``: uint8 pixels [N, C, H, W] or floats; ``y`` [N]: class numbers, or values in the label's own scale.
    ``units`` [N]: whose row each is, numbered from 0 in each set of rows; None: a row each.
    """

    x: Tensor
    y: Tensor
    units: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def members(self) -> int:
        """How many there are to protect: units, or rows where each is its own."""
        return len(self) if self.units is None else int(self.units.max()) + 1


@dataclass(frozen=True)
class SiloDataset:
    """
    What a silo learns from. ``target``: inputs of its second domain, which have no labels here. ``classes`` are
    its own label names, () in regression; ``y_mean`` and ``y_std`` scale the values of regression. ``origins``: where
    the values come from that the rows were prepared with; private training refuses those that were learned from rows.
    """

    train: Dataset
    val: Dataset
    classes: tuple[str, ...]
    target: Tensor | None = None
    y_mean: float = 0.0
    y_std: float = 1.0
    origins: Origins = LEARNED

    @property
    def width(self) -> int:
        """How many outputs a head of its own has."""
        return len(self.classes) or 1


def pool(silos: list[SiloDataset]) -> SiloDataset:
    """All rows in one place; the values of regression in each silo's own scale, as each would train on them."""

    def joined(parts: list[Dataset]) -> Dataset:
        scaled = [
            part.y if its.classes else (part.y - its.y_mean) / its.y_std
            for part, its in zip(parts, silos, strict=True)
        ]
        return Dataset(torch.cat([part.x for part in parts]), torch.cat(scaled))

    targets = [its.target for its in silos if its.target is not None]
    target = torch.cat(targets) if targets else None
    return SiloDataset(
        joined([its.train for its in silos]), joined([its.val for its in silos]), silos[0].classes, target
    )
