"""What a few-shot head is, and what several of them compute: class means, and distances that leave a row out."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.methods.base import LabelledFeatures


class Head(Protocol):
    """
    From a support set, whose labels are class numbers below ``width`` and all occur, to the scores [M, width] of other rows
    with features ``queries`` [M, D]. Trains nothing but itself, and draws nothing at random that its arguments do not decide.
    """

    def __call__(self, support: LabelledFeatures, width: int, queries: Tensor) -> Tensor: ...


def class_counts(y: Tensor, width: int) -> Tensor:
    """Return the number of rows of each class [width]."""
    return torch.bincount(y, minlength=width)


def class_means(support: LabelledFeatures, width: int) -> Tensor:
    """Return the prototypes [width, D]: the mean features of each class; zeros for a class without rows."""
    members = F.one_hot(support.y, width).to(support.features)
    return (members.T @ support.features) / members.sum(0).clamp_min(1)[:, None]


def square_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ||a_i - b_j||^2 [N, M], without the rounding of the expanded square."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").pow(2)


def with_another(y: Tensor, width: int) -> Tensor:
    """Return which rows have another row of their class [N]: only these can be left out and judged."""
    return class_counts(y, width)[y] > 1
