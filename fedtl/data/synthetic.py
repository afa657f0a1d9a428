"""Deterministic synthetic rows, for dry runs of everything that must not depend on data."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import DECLARED
from fedtl.tasks.base import LearningTask
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.tasks.regression import REGRESSION


def noise(count: int, shape: Sequence[int]) -> Tensor:
    """
    Return ``count`` random inputs, always the same ones, which depend on no data: uniform in -1..1 for images [C, H, W] and
    volumes, normal for rows of a table.
    """
    generator = torch.Generator().manual_seed(0)
    images = len(shape) > 2
    x = (torch.rand if images else torch.randn)(count, *shape, generator=generator)
    return x * 2 - 1 if images else x


def synthetic_rows(
    count: int,
    shape: Sequence[int],
    classes: Sequence[str],
    pixels: bool,
    units: bool = False,
    task: LearningTask | None = None,
) -> Dataset:
    """
    Return ``count`` synthetic rows, always the same ones.

    ``shape``: of one input. ``pixels``: uint8 pixels, otherwise normal numbers. ``units``: give each row a unit of its own.
    ``task``: says which labels they have; None: ``classes`` in turn, or normal numbers where there are none.
    """
    generator = torch.Generator().manual_seed(0)
    if pixels:
        x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    else:
        x = torch.randn((count, *shape), generator=generator)
    task = task or (CLASSIFICATION if classes else REGRESSION)
    y_shape = (count, *shape[1:]) if task.per_pixel else (count,)
    y = task.synthetic(prod(y_shape), classes, generator)
    return Dataset(x, y.unflatten(0, y_shape), torch.arange(count) if units else None)


def synthetic_like(data: SiloDataset, count: int) -> SiloDataset:
    """Return ``count`` synthetic rows with the shape, types and classes of this silo's rows."""
    train = data.train
    pixels, units = not train.x.is_floating_point(), train.units is not None
    rows = synthetic_rows(count, train.x.shape[1:], data.classes, pixels, units, data.task)
    rows = replace(rows, x=rows.x.to(train.x.dtype))
    return SiloDataset(rows, rows, data.classes, origins=DECLARED, task=data.task)
