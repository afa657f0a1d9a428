"""fedtl's own small model that gives a score for each class and pixel: a U-Net. See ``models.builtin``."""

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.builtin import GROUPS, image_sides
from fedtl.models.net import Shape
from fedtl.models.written import Sources

Norm = Literal["batch", "group"]


def unet(
    shape: Shape,
    width: Annotated[int, Field(ge=1, le=1024)] = 16,
    depth: Annotated[int, Field(ge=1, le=6)] = 3,
    norm: Norm = "batch",
) -> tuple[nn.Module, str]:
    """
    A U-Net (Ronneberger et al., 2015) of 16 channels, doubled at each of 3 poolings, with BatchNorm or GroupNorm; segmentation.
    """
    sides = image_sides(shape, at_least=2**depth)
    if norm == "group" and width % GROUPS:
        raise ModelError(
            f'takes a width that is a multiple of {GROUPS} with norm = "group", not {width}; set model.settings.width'
        )
    assert len(sides) == 2
    body = UNet(shape[0], width, depth, norm)
    return nn.Sequential(OrderedDict(features=body, classifier=nn.Conv2d(width, 1, 1))), "classifier"


class UNet(nn.Module):
    """
    ``down``: blocks of two 3 x 3 convolutions with max pooling of 2 x 2 pixels in between; ``up``: the same in reverse,
    each on the output of the one before, enlarged to the nearest pixels, and of the block of its size.
    """

    def __init__(self, channels: int, width: int, depth: int, norm: str) -> None:
        super().__init__()
        self.arguments = channels, width, depth, norm
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_block(*pair, norm) for pair in pairwise([channels, *widths]))
        self.up = nn.ModuleList(
            _block(wide + narrow, narrow, norm) for narrow, wide in reversed(list(pairwise(widths)))
        )

    def written_with(self) -> "Sources":
        return _block, UNet

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, width, H, W] for x [N, C, H, W]."""
        sizes: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(sizes[-1], 2) if sizes else x)
            sizes.append(x)
        for block, same in zip(self.up, reversed(sizes[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, same.shape[2:], mode="nearest"), same], 1))
        return x


def _block(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide in (inputs, outputs):
        normalisation = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(8, outputs)
        layers += [nn.Conv2d(wide, outputs, 3, padding=1, bias=False), normalisation, nn.ReLU()]
    return nn.Sequential(*layers)
