"""Distillation: a student is trained to give what a teacher gives, rather than labels."""

import torch.nn.functional as F
from torch import Tensor


def soft_losses(scores: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """
    Return the loss of each row [B] (Hinton et al., 2014). ``scores`` and ``teacher`` [B, classes]: scores before the softmax, or
    logarithms of probabilities; of one column in regression: values.

    With classes T^2 KL(softmax(teacher / T) || softmax(scores / T)), whose gradient does not shrink with the temperature T; in
    regression half the squared difference.
    """
    if scores.shape[1] == 1:
        return 0.5 * (scores - teacher)[:, 0].pow(2)
    wanted, given = (teacher / temperature).log_softmax(1), (scores / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)
