"""
Which labels are probably wrong, from features alone (confident learning: Northcutt, Jiang and Chuang, 2021).

Everything is computed at the silo, from its own rows. The features must be of a body that has not learned the wrong labels: of one
that was trained shortly, or elsewhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.methods.ridge import STRENGTHS, best_scale

MIN_ROWS = 20  # with fewer labelled rows, nothing is said


@dataclass(frozen=True)
class Doubts:
    """
    ``share``: the estimated share of the labels that are wrong. ``rows`` [K]: those rows whose label is in doubt, the most doubtful
    first; ``given`` and ``likely`` [K]: their label and a likelier one; ``odds`` [K]: how many times as likely.
    """

    share: float
    rows: Tensor
    given: Tensor
    likely: Tensor
    odds: Tensor


def label_doubts(features: Tensor, y: Tensor, classes: int) -> Doubts | None:
    """
    Return which labels ``y`` [N] (0 .. classes - 1) of rows with these ``features`` [N, D] are in doubt; None for fewer than MIN_ROWS
    rows or one class.

    p [N, C] are the probabilities that a ridge head gives a row of which it has not seen the label. t_j, the mean of p_j over
    the rows with label j, is the confidence to be expected of that label. A row is counted as (its label i, the class j with
    the largest p_j among those with p_j >= t_j); rows without such a j are not counted. Counts scaled to the number of rows of
    each label give the share that is off the diagonal; the rows off the diagonal are in doubt.
    """
    present = torch.unique(y)
    if len(y) < MIN_ROWS or len(present) < 2:
        return None
    p = leave_one_out(features.double(), y, classes)
    expected = torch.full((classes,), torch.inf, dtype=p.dtype)
    expected[present] = torch.stack([p[y == label, label].mean() for label in present])
    confident = torch.where(p >= expected, p, -torch.inf)
    likely, counted = confident.argmax(1), confident.isfinite().any(1)
    joint = torch.zeros(classes, classes, dtype=torch.float64)
    joint.index_put_((y[counted], likely[counted]), torch.ones(int(counted.sum())).double(), accumulate=True)
    rows_of = torch.bincount(y, minlength=classes).double()
    right = (joint.diagonal() / joint.sum(1).clamp_min(1)).where(joint.sum(1) > 0, torch.tensor(1.0).double())
    doubtful = (counted & (likely != y)).nonzero()[:, 0]
    odds = p[doubtful, likely[doubtful]] / p[doubtful, y[doubtful]]
    order = doubtful[odds.argsort(descending=True, stable=True)]
    share = float(((1 - right) * rows_of).sum() / rows_of.sum())
    return Doubts(share, order, y[order], likely[order], odds.sort(descending=True, stable=True).values)


def leave_one_out(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """
    Return for each row the probabilities [N, C] of the labels by a ridge head that was fitted to all other rows.

    With the hat matrix H = 1/N + X (X^T X + lambda I)^-1 X^T of centred features X, the score of a row by the head of the others
    is (H Y - h_nn y_n) / (1 - h_nn), exactly (Allen, 1974). lambda is the one of STRENGTHS, in mean variances of a feature, with
    the smallest squared error; scores become logits by one scale (``best_scale``).
    """
    onehot = torch.nn.functional.one_hot(y, classes).double()
    left, values, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    unit = max(float(values.square().sum()) / features.shape[1], 1e-12)
    inside = left.T @ onehot

    def scores(strength: float) -> Tensor:
        kept = values.square() / (values.square() + strength * unit)
        fitted = onehot.mean(0) + left @ (kept[:, None] * inside)
        own = (1 / len(y) + (left.square() @ kept))[:, None].clamp_max(1 - 1e-9)
        return (fitted - own * onehot) / (1 - own)

    best = min(
        (scores(strength) for strength in STRENGTHS), key=lambda one: float((one - onehot).square().sum())
    )
    return (best_scale(best, y) * best).softmax(1)
