"""
Scores as hazards of ordered steps: score k is the logit of the probability that a process ends at step k, given that it did not
end before. Ordered levels (continuation ratios) and survival in time intervals have this form, and so one likelihood.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def survivals(scores: Tensor) -> Tensor:
    """Return the probabilities [N, K] that the process has not ended after step k: S_k = prod over j <= k of (1 - sigmoid(s_j))."""
    return F.logsigmoid(-scores).cumsum(1).exp()


def hazard_scores(survival: Tensor) -> Tensor:
    """Return the scores [N, K] of survival probabilities that do not increase: the inverse of ``survivals``."""
    tiny = torch.finfo(survival.dtype).tiny
    before = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], 1)
    return (before - survival).clamp_min(tiny).log() - survival.clamp_min(tiny).log()


def hazard_losses(scores: Tensor, survived: Tensor, ended: Tensor) -> Tensor:
    """
    Return the negative log-likelihood of each row [N]: sum over steps j < n of softplus(s_j), plus softplus(-s_n) where the
    process ended at step n. ``survived`` [N]: n, the number of steps that it is known to have passed; ``ended`` [N]: whether it ended at
    step n.
    """
    steps = torch.arange(scores.shape[1], device=scores.device)
    passed, at = steps < survived[:, None], (steps == survived[:, None]) & ended[:, None]
    return (F.softplus(scores) * passed + F.softplus(-scores) * at).sum(1)
