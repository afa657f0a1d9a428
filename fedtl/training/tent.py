"""Test-time adaptation: the scale and shift of normalisation layers follow new inputs while these are predicted."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedtl.errors import ConfigError
from fedtl.methods.entropy import entropies
from fedtl.models.norms import is_norm
from fedtl.training.batches import in_batches, to_inputs

BATCH = 64
LR = 1e-3  # of Adam; both as in the paper's experiments on CIFAR, with a smaller batch


def tent_scores(net: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """
    Return the scores [N, classes] of new inputs by a model that adapts to them (TENT; Wang et al., 2021), on the CPU.

    Rows are taken in order, BATCH at a time. A batch is normalised with its own statistics, its scores are kept, and then
    scale and shift of all normalisation layers take a step of Adam along the gradient of the batch's mean entropy
    H(p) = -sum_c p_c log p_c. So the scores of a row depend on the rows before it and in its batch. ``net`` does not change.

    Raises ConfigError for a model without scale and shift, and for fewer than two rows.
    """
    if len(x) < 2:
        raise ConfigError(f"--adapt tent: the input has {len(x)} row; statistics of a batch need at least 2")
    net = deepcopy(net).to(device).eval()
    norms = [module for module in net.modules() if is_norm(module)]
    for weight in net.parameters():
        weight.requires_grad_(False)
    moving = [weight for norm in norms for weight in norm.parameters(recurse=False)]
    if not moving:
        raise ConfigError(
            "--adapt tent: the model has no normalisation layer with scale and shift; remove --adapt tent"
        )
    for weight in moving:
        weight.requires_grad_(True)
    for norm in norms:
        norm.train(isinstance(norm, _NormBase))  # then it uses the statistics of the batch
    optimizer, scores = torch.optim.Adam(moving, LR), list[Tensor]()
    for rows in in_batches(torch.arange(len(x)), BATCH):
        out = net(to_inputs(x[rows], device)).float()
        scores.append(out.detach().cpu())
        optimizer.zero_grad(set_to_none=True)
        entropies(out).mean().backward()
        optimizer.step()
    return torch.cat(scores)
