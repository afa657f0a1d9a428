"""Matching with attention: a row takes the labels of the support rows that it resembles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.base import with_another

SHARPNESS = (
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
)  # of the attention; the first, as published, where none can be chosen


def matching(support: LabelledFeatures, width: int, queries: Tensor) -> Tensor:
    """
    Vinyals et al., 2016: P(c | q) = sum over support rows of class c of a(q, x_i), with a the softmax over support rows of
    s cos(q, x_i). Returns log P. Their s is 1; here leaving out one support row at a time chooses s. Their
    contextual embeddings (an LSTM over the support) need episodes of other silos' rows, and are left out.
    """
    keys, members = F.normalize(support.features), F.one_hot(support.y, width).to(support.features)
    sharpness = _sharpness(keys @ keys.T, support.y, members)
    return _log_probabilities(sharpness * F.normalize(queries) @ keys.T, members)


def _sharpness(cosines: Tensor, y: Tensor, members: Tensor) -> float:
    """Return the s with the lowest log loss on support rows that are left out one at a time."""
    judged = with_another(y, members.shape[1])
    if not bool(judged.any()):
        return SHARPNESS[0]
    itself = torch.eye(len(y), dtype=torch.bool)
    losses = [
        float(
            F.nll_loss(
                _log_probabilities((s * cosines).masked_fill(itself, -torch.inf), members)[judged], y[judged]
            )
        )
        for s in SHARPNESS
    ]
    return SHARPNESS[losses.index(min(losses))]


def _log_probabilities(attention: Tensor, members: Tensor) -> Tensor:
    """Return log P [M, C] of attention logits [M, N] over support rows whose classes are ``members`` [N, C]."""
    return (attention.softmax(1) @ members).clamp_min(1e-12).log()
