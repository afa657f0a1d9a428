"""A ridge head on the support, whose penalty leaving out one row at a time chooses."""

import torch
from torch import Tensor

from fedtl.methods.base import LabelledFeatures
from fedtl.methods.ridge import STRENGTHS, best_scale
from fedtl.methods.ridge_sums import Ridge, Rows, targets

MIN_LEFT = 1e-6  # of 1 - h: below it a row alone decides its own prediction


def ridge(support: LabelledFeatures, width: int, queries: Tensor) -> Tensor:
    """
    Bertinetto et al., 2019 (R2-D2): ridge regression of one-hot labels on features (``methods.ridge_sums``), with the penalty
    of STRENGTHS whose predictions of left-out rows have the lowest squared error (PRESS; Allen, 1974):
    e_i = (y_i - f_i) / (1 - h_ii), h = the diagonal of 1/N + Z (Z^T Z + N lambda I)^-1 Z^T for centred features Z.
    """
    solver, rows = Ridge.of(Rows().moments(support, width)), support.features.double()
    aim = targets(support.y, width)
    in_basis = ((rows - solver.mean) @ solver.vectors).pow(2) / len(rows)
    best, lowest = (torch.zeros_like(aim), 0.0), torch.inf
    for strength in STRENGTHS:
        penalty = strength * solver.unit
        weight, bias = solver.head(penalty)
        share = 1 / len(rows) + (in_basis / (solver.values + penalty)).sum(1, keepdim=True)
        errors = (aim - rows @ weight - bias) / (1 - share).clamp_min(MIN_LEFT)
        if (error := float(errors.pow(2).mean())) < lowest:
            best, lowest = (aim - errors, penalty), error
    left_out, penalty = best
    weight, bias = solver.head(penalty)
    return (best_scale(left_out, support.y) * (queries.double() @ weight + bias)).to(queries)
