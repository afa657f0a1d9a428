"""
Rows without a label: the class number NO_LABEL, or NaN where labels are numbers. Labels are [N], or [N, K] where a row has K
numbers; such a row has no label where all K are NaN.
"""

import torch
from torch import Tensor

NO_LABEL = -1


def is_known(y: Tensor) -> Tensor:
    """Return for each row whether it has a label, [N] of bool."""
    known = ~y.isnan() if y.is_floating_point() else y != NO_LABEL
    return known.flatten(1).any(1) if known.dim() > 1 else known


def without_labels(count: int, like: Tensor) -> Tensor:
    """Return the labels of ``count`` rows that have none, of the type and shape of ``like``."""
    value = torch.nan if like.is_floating_point() else NO_LABEL
    return torch.full((count, *like.shape[1:]), value, dtype=like.dtype, device=like.device)
