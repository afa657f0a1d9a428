"""fedtl's own small models for series of measurements [N, C, T]: see ``models.builtin``."""

from collections import OrderedDict
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.builtin import Width
from fedtl.models.net import Shape
from fedtl.models.written import Sources

Kernel = Annotated[int, Field(ge=1, le=129)]  # steps


def convnet1d(
    shape: Shape, widths: tuple[Width, Width, Width] = (32, 64, 64), kernel: Kernel = 5
) -> tuple[nn.Module, str]:
    """Three convolutions over time (32, 64, 64; 5 steps) with BatchNorm, two poolings, the average over time; series from 4 steps."""
    channels, steps = _series(shape)
    if steps < 4:
        raise ModelError(f'takes series of 4 steps or more, not {steps}; model.name = "gru" takes any')
    layers: list[nn.Module] = []
    for width, pooled in zip(widths, (True, True, False), strict=True):
        convolution = nn.Conv1d(channels, width, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm1d(width), nn.ReLU(), *([nn.MaxPool1d(2)] if pooled else [])]
        channels = width
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=body, classifier=nn.Linear(channels, 1))), "classifier"


def gru(shape: Shape, width: Width = 64) -> tuple[nn.Module, str]:
    """A gated recurrent unit (Cho et al., 2014) of 64 units, BatchNorm on the average of its states; series."""
    channels, _ = _series(shape)
    body = nn.Sequential(_GRU(channels, width), nn.BatchNorm1d(width))
    return nn.Sequential(OrderedDict(features=body, classifier=nn.Linear(width, 1))), "classifier"


class _GRU(nn.Module):
    """
    The mean over time of the states of torch's GRU of one layer, written with two Linear layers: per-example gradients, which
    [privacy] needs, exist for Linear and not for torch's GRU.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.arguments = inputs, width
        self.input, self.state = nn.Linear(inputs, 3 * width), nn.Linear(width, 3 * width)
        for weight in self.parameters():  # as torch does
            nn.init.uniform_(weight, -(width**-0.5), width**-0.5)

    def written_with(self) -> "Sources":
        return (_GRU,)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, width] for x [N, C, T]."""
        given = self.input(x.transpose(1, 2)).unbind(1)
        h = total = torch.zeros_like(
            given[0].chunk(3, 1)[0]
        )  # with the number of rows of x, also once it is traced
        for step in given:
            r_x, z_x, n_x = step.chunk(3, 1)
            r_h, z_h, n_h = self.state(h).chunk(3, 1)
            z = torch.sigmoid(z_x + z_h)
            h = (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h
            total = total + h
        return total / len(given)


def _series(shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        what = "images" if len(shape) == 3 else f"rows of {shape[0]} columns"
        raise ModelError(
            f"takes series of measurements, not {what}; set data.sequence, or another model.name"
        )
    channels, steps = shape
    return channels, steps
