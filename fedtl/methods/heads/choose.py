"""The few-shot heads by name, and which of them the support itself would choose."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.base import Head, with_another
from fedtl.methods.heads.closed_form import ridge
from fedtl.methods.heads.linear import linear
from fedtl.methods.heads.matching import matching
from fedtl.methods.heads.propagation import propagation
from fedtl.methods.heads.prototype import prototype
from fedtl.methods.heads.scaled import scaled
from fedtl.tasks.classification import correct

# In the order in which equally good ones are chosen: what has less to fit comes first.
HEADS: dict[str, Head] = {
    "prototype": prototype,
    "scaled": scaled,
    "matching": matching,
    "ridge": ridge,
    "linear": linear,
    "propagation": propagation,
}
FOLDS = 5


def fold_of(y: Tensor, width: int, folds: int = FOLDS) -> Tensor:
    """
    Return the fold of each row [N]: the rows of a class are dealt in turn, so each class keeps a row in every training part.
    -1 for the only row of its class, which is never left out.
    """
    fold = torch.full_like(y, -1)
    for number in range(width):
        rows = (y == number).nonzero()[:, 0]
        if len(rows) > 1:
            fold[rows] = torch.arange(len(rows)) % folds
    return fold


def held_out_accuracy(head: Head, support: LabelledFeatures, width: int) -> float | None:
    """
    Return the share of support rows that the head answers rightly when it is made without them: leaving out one row of a class
    at a time up to FOLDS rows a class, else FOLDS-fold. None where no class has two rows, or there is only one class.
    """
    if width < 2 or not bool(with_another(support.y, width).any()):
        return None
    fold, right = fold_of(support.y, width), 0
    for number in fold.unique().tolist():
        if number >= 0:
            out = fold == number
            kept = LabelledFeatures(support.features[~out], support.y[~out])
            right += int(correct(head(kept, width, support.features[out]), support.y[out]).sum())
    return right / int((fold >= 0).sum())


def best_head(accuracies: Mapping[str, float]) -> str:
    """Return the head with the highest accuracy; of equal ones the first."""
    return max(accuracies, key=lambda name: accuracies[name])
