"""A few numbers a row, by which rows of silos can be compared whatever their inputs are."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw, finite_numbers

GRID = {1: 16, 2: 8, 3: 4}  # parts of each axis, by the number of axes, of which the mean is taken
POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
COLOURS = ("red", "green", "blue")


def row_features(x: Array, raw: Raw, settings: DataSettings) -> Array:
    """
    Return [N, F] for stored rows ``x`` of the silo ``raw``: a table's columns as they are, NaN where a value is missing; of
    images, series and volumes, in the experiment's size and channels, the means of the parts of a grid, channel by channel.
    """
    if x.ndim == 2:
        return finite_numbers(x)
    inputs = torch.from_numpy(_as_inputs(x, raw, settings)).float()
    axes = inputs.ndim - 2
    size: Any = tuple(min(GRID[axes], side) for side in inputs.shape[2:])  # one number for series
    pooled: Tensor = POOLS[axes](inputs, size if axes > 1 else size[0])
    return pooled.flatten(1).numpy().astype(np.float64)


def summaries(x: Array, raw: Raw, settings: DataSettings) -> dict[str, Array]:
    """Return by name what a person can compare, [N] each: a table's columns, or brightness, contrast and the mean of each colour."""
    if x.ndim == 2:
        names = raw.columns or tuple(f"column {number}" for number in range(x.shape[1]))
        return dict(zip(names, finite_numbers(x).T, strict=True))
    inputs = _as_inputs(x, raw, settings).astype(np.float64)
    by_channel = inputs.reshape(*inputs.shape[:2], -1)
    named = {"mean": by_channel.mean((1, 2)), "spread": by_channel.std((1, 2))}
    if inputs.ndim == 4:
        named = {"brightness": named["mean"], "contrast": named["spread"]}
        if inputs.shape[1] == len(COLOURS):
            named |= {colour: by_channel[:, at].mean(1) for at, colour in enumerate(COLOURS)}
    return named


def _as_inputs(x: Array, raw: Raw, settings: DataSettings) -> Array:
    """Return [N, C, ...] with the experiment's size and channels, not scaled."""
    return Inputs.unscaled(settings, raw.columns).apply(x)
