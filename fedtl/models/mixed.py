"""A mix of several nets as one module, for export."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedtl.tasks.base import LearningTask


class MixedNet(nn.Module):
    """
    Nets that take the same inputs. The output [N, width] says what the weighted mean of their answers says: of classes the
    logarithm of the mean of their probabilities, of values the mean.
    """

    def __init__(self, nets: Sequence[nn.Module], weights: Sequence[float], task: LearningTask) -> None:
        super().__init__()
        self.nets, self.weights, self.task = nn.ModuleList(nets), tuple(weights), task

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.task.averaged(net(x)) for net in self.nets]
        mean = torch.stack([part * weight for part, weight in zip(parts, self.weights, strict=True)]).sum(0)
        return self.task.scores_of(mean)
