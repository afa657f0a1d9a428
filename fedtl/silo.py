"""
One institution: its rows, the local part of its model, its secret, its promise. Values, without behaviour.

Examples exist here, in ``fedtl/bench.py`` and in ``fedtl/data``, nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedtl.privacy.labels import Labels
from fedtl.privacy.origins import DECLARED, LEARNED, Origins
from fedtl.privacy.promise import Promise
from fedtl.state import State


@dataclass(frozen=True)
class Rows:
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
class SiloData:
    """
    What a silo learns from. ``target``: inputs of its second domain, which have no labels here. ``classes`` are
    its own label names, () in regression; ``y_mean`` and ``y_std`` scale the values of regression. ``origins``: where
    the values come from that the rows were prepared with; private training refuses those that were learned from rows.
    """

    train: Rows
    val: Rows
    classes: tuple[str, ...]
    target: Tensor | None = None
    y_mean: float = 0.0
    y_std: float = 1.0
    origins: Origins = LEARNED

    @property
    def width(self) -> int:
        """How many outputs a head of its own has."""
        return len(self.classes) or 1


def nobody(
    count: int, shape: Sequence[int], classes: Sequence[str], pixels: bool, units: bool = False
) -> Rows:
    """
    Rows that nobody has, the same each time, to try out on what must not depend on data: ``count`` inputs of ``shape``,
    pixels or normal numbers; labels in turn, or normal values where there are no ``classes``. ``units``: one to a row.
    """
    generator = torch.Generator().manual_seed(0)
    if pixels:
        x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    else:
        x = torch.randn((count, *shape), generator=generator)
    y = torch.arange(count) % len(classes) if classes else torch.randn(count, generator=generator)
    return Rows(x, y, torch.arange(count) if units else None)


def strangers_like(data: SiloData, count: int) -> SiloData:
    """So many rows of nobody, of this silo's kind."""
    train = data.train
    pixels, units = not train.x.is_floating_point(), train.units is not None
    rows = nobody(count, train.x.shape[1:], data.classes, pixels, units)
    rows = replace(rows, x=rows.x.to(train.x.dtype))
    return SiloData(rows, rows, data.classes, origins=DECLARED)


def pool(silos: list[SiloData]) -> SiloData:
    """All rows in one place; the values of regression in each silo's own scale, as each would train on them."""

    def joined(parts: list[Rows]) -> Rows:
        scaled = [
            part.y if its.classes else (part.y - its.y_mean) / its.y_std
            for part, its in zip(parts, silos, strict=True)
        ]
        return Rows(torch.cat([part.x for part in parts]), torch.cat(scaled))

    targets = [its.target for its in silos if its.target is not None]
    target = torch.cat(targets) if targets else None
    return SiloData(
        joined([its.train for its in silos]), joined([its.val for its in silos]), silos[0].classes, target
    )


@dataclass
class Silo:
    """
    What an institution has and keeps: its data, the local part of its model, and a secret.

    The secret is part of every draw, so that somebody who knows the task's seed cannot draw the batches again.
    It comes from the system's randomness in an institution, and from the experiment's seed in a simulation,
    where nobody has to be protected from us. With a promise, its training is private, and ``labels`` say of each role
    of the local tensors what may go into it.
    """

    name: str
    data: SiloData
    local: State
    secret: bytes
    promise: Promise | None = None
    labels: Labels = field(default_factory=dict)
