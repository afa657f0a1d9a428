"""A mix of several nets as one module, for export."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MixedNet(nn.Module):
    """
    Nets that take the same inputs. With ``classes`` the output is the logarithm of the weighted mean of their probabilities,
    otherwise the weighted mean of their values [N, width].
    """

    def __init__(self, nets: Sequence[nn.Module], weights: Sequence[float], classes: bool) -> None:
        super().__init__()
        self.nets, self.weights, self.classes = nn.ModuleList(nets), tuple(weights), classes

    def forward(self, x: Tensor) -> Tensor:
        parts = [net(x) for net in self.nets]
        if self.classes:
            parts = [part.softmax(1) for part in parts]
        mean = torch.stack([part * weight for part, weight in zip(parts, self.weights, strict=True)]).sum(0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log() if self.classes else mean
