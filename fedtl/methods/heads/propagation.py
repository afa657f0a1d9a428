"""Transductive propagation: labels spread from the support to all queries at once, over a graph of near rows."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.base import square_distances, with_another

NEIGHBOURS = 20
SPREADS = (0.5, 0.2, 0.8, 0.95, 0.99)  # alpha; the first where the support cannot choose
QUERIES_AT_ONCE = 256  # that are in one graph


def propagation(support: LabelledFeatures, width: int, queries: Tensor) -> Tensor:
    """
    TPN (Liu et al., 2019), with the label spreading of Zhou et al. (2004): F = (1 - a) (I - a S)^-1 Y, where
    S = D^-1/2 W D^-1/2 and W_ij = exp(-||x_i - x_j||^2 / 2 h) for rows of which one is among the 20 nearest of the other, and
    h the mean squared distance to these. Each class then gets the same total (Zhu et al., 2003), so that none wins by a row
    with many neighbours. Returns log F.

    TPN has a = 0.99 and a network for h, trained in episodes of other silos' rows; here a support row whose own label is taken
    away, F_i - (1 - a) (I - a S)^-1_ii Y_i, chooses a of SPREADS. The queries' inputs are used together, 256 at a time, and none
    of their labels.
    """
    parts: list[Tensor] = []
    spreads: Sequence[float] = SPREADS
    for part in queries.split(QUERIES_AT_ONCE):
        scores, chosen = _spread(support, width, part, spreads)
        parts, spreads = [*parts, scores], (chosen,)  # the first graph chooses for all
    return torch.cat(parts) if parts else queries.new_zeros(0, width)


def _spread(
    support: LabelledFeatures, width: int, queries: Tensor, spreads: Sequence[float]
) -> tuple[Tensor, float]:
    """Return log F [M, width] of the queries, and the a of ``spreads`` by which it was made."""
    affinity = graph(torch.cat([support.features, queries]).double())
    count, known = len(support), F.one_hot(support.y, width).double()
    judged, best, lowest = with_another(support.y, width), (queries, spreads[0]), torch.inf
    for alpha in spreads if bool(judged.any()) else spreads[:1]:
        kernel = spreading(affinity, alpha, count)
        result = kernel @ known
        without = result[:count] - kernel[:count].diagonal()[:, None] * known
        logs = _balanced(torch.cat([without, result[count:]]))[:count]
        loss = float(F.nll_loss(logs[judged], support.y[judged])) if bool(judged.any()) else 0.0
        if loss < lowest:
            best, lowest = (_balanced(result)[count:].to(queries), alpha), loss
    return best


def graph(rows: Tensor) -> Tensor:
    """Return the weights W [N, N] between rows [N, D]: symmetric, zero on the diagonal."""
    distances = square_distances(rows, rows).fill_diagonal_(torch.inf)
    near, which = distances.topk(min(NEIGHBOURS, len(rows) - 1), largest=False)
    width = near.mean().clamp_min(1e-12) if near.numel() else torch.ones(())
    weights = torch.zeros_like(distances).scatter(1, which, torch.exp(-near / (2 * width)))
    return torch.maximum(weights, weights.T)


def spreading(affinity: Tensor, alpha: float, count: int) -> Tensor:
    """Return the first ``count`` columns of (1 - a) (I - a S)^-1 [N, N]; I - a S is positive definite."""
    root = affinity.sum(1).clamp_min(1e-12).rsqrt()
    identity = torch.eye(len(affinity), dtype=affinity.dtype)
    factor = torch.linalg.cholesky(identity - alpha * root[:, None] * affinity * root)
    return (1 - alpha) * torch.cholesky_solve(identity[:, :count], factor)


def _balanced(result: Tensor) -> Tensor:
    """Return the logarithm of F [N, C] with columns of the same sum and rows that sum to 1."""
    shares = result.clamp_min(1e-12) / result.clamp_min(1e-12).sum(0)
    return (shares / shares.sum(1, keepdim=True)).log()
