"""How well would a linear model on these features explain the labels? Without training one."""

from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 100
TOLERANCE = 1e-6  # relative, on the prior's precision over the noise's


def logme(features: Tensor, y: Tensor) -> float:
    """
    Return LogME (You et al., 2021), the logarithm of maximum evidence a row: how probable are the labels if a linear model
    with a Gaussian prior explains them, at the best precisions alpha (prior) and beta (noise). Higher is better.

    ``features`` [N, D]; ``y`` [N], class numbers (int64), each against the rest, of which the mean is taken; or values.

        L = 1/N max_{alpha, beta} log Normal(y; 0, I / beta + F F' / alpha)

    NaN without rows, and for labels that are all the same.
    """
    if not len(y) or bool((y == y[0]).all()):
        return float("nan")
    features = features.flatten(1).double()
    u, singular, _ = torch.linalg.svd(features, full_matrices=False)
    targets = [y.double()]
    if not y.is_floating_point():
        one_hot = F.one_hot(y).double().T
        targets = [row for row in one_hot if bool(row.any())]
    values = [_evidence(u.T @ target, singular.square(), target, features.shape[1]) for target in targets]
    return sum(values) / len(values)


def _evidence(projected: Tensor, squares: Tensor, y: Tensor, dimensions: int) -> float:
    """
    Return the maximum of the evidence a row, found by MacKay's fixed point iteration. ``projected``: y on the left singular
    vectors of the features; ``squares``: of their singular values.
    """
    rows = len(y)
    outside = float((y.square().sum() - projected.square().sum()).clamp_min(0))
    ratio = 1.0  # alpha / beta
    alpha = beta = 1.0
    for _ in range(ITERATIONS):
        mean_square, residual = _fit(projected, squares, ratio)
        effective = float((squares / (squares + ratio)).sum())
        alpha = effective / max(mean_square, 1e-12)
        beta = max(rows - effective, 1e-12) / max(residual + outside, 1e-12)
        previous, ratio = ratio, alpha / beta
        if abs(ratio - previous) <= TOLERANCE * previous:
            break
    mean_square, residual = _fit(projected, squares, ratio)
    determinant = float((alpha + beta * squares).log().sum()) + (dimensions - len(squares)) * log(alpha)
    total = rows / 2 * log(beta) + dimensions / 2 * log(alpha) - rows / 2 * log(2 * pi) - determinant / 2
    return (total - beta / 2 * (residual + outside) - alpha / 2 * mean_square) / rows


def _fit(projected: Tensor, squares: Tensor, ratio: float) -> tuple[float, float]:
    """Return m'm of the ridge solution m with penalty ``ratio``, and its squared residual within the features' span."""
    shrunk = squares + ratio
    mean_square = (squares * projected.square() / shrunk.square()).sum()
    residual = (projected * ratio / shrunk).square().sum()
    return float(mean_square), float(residual)
