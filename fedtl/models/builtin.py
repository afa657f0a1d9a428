"""
fedtl's own small models, which need neither a GPU nor another library.

Each is a function from the shape of one input to a module and the path of its last layer, a Linear. Further parameters are
the keys of ``[model.settings]``.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.net import Shape
from fedtl.models.written import Sources

Width = Annotated[int, Field(ge=1, le=4096)]  # channels or units of a layer
Grid = Annotated[
    int, Field(ge=1, le=16)
]  # features are averages over the cells of a grid; this is its number of rows and of columns
GROUPS = 8  # the number of groups of a GroupNorm


def convnet(
    shape: Shape, widths: tuple[Width, Width, Width] = (32, 64, 64), grid: Grid = 1
) -> tuple[nn.Module, str]:
    """
    Three 3x3 convolutions (32, 64, 64) with BatchNorm, two poolings, averages over a grid of 1 x 1; images and volumes from 4 px.
    """
    return _convnet(shape, widths, grid, lambda width, layers: layers.batch_norm(width))


def convnet_gn(
    shape: Shape, widths: tuple[Width, Width, Width] = (32, 64, 64), grid: Grid = 1
) -> tuple[nn.Module, str]:
    """convnet with GroupNorm (Wu and He, 2018; 8 groups): without running statistics, which need no adaptation or noise."""
    for width in widths:
        if width % GROUPS:
            raise ModelError(
                f"takes widths that are multiples of {GROUPS}, not {width}; set model.settings.widths"
            )
    return _convnet(shape, widths, grid, lambda width, _: nn.GroupNorm(GROUPS, width))


@dataclass(frozen=True)
class _Layers:
    """The layers for inputs of one number of axes."""

    convolution: Callable[..., nn.Module]
    batch_norm: Callable[[int], nn.Module]
    pooling: Callable[[int], nn.Module]
    averages: Callable[[int], nn.Module]


LAYERS = {
    3: _Layers(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    4: _Layers(nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


def _convnet(
    shape: Shape, widths: tuple[int, int, int], grid: int, norm: Callable[[int, _Layers], nn.Module]
) -> tuple[nn.Module, str]:
    channels, sides = shape[0], image_sides(shape, at_least=4, axes=tuple(LAYERS))
    of = LAYERS[len(shape)]
    layers: list[nn.Module] = []
    for width, pooled in zip(widths, (True, True, False), strict=True):
        layers += [of.convolution(channels, width, 3, padding=1, bias=False), norm(width, of), nn.ReLU()]
        layers += [of.pooling(2)] if pooled else []
        channels = width
    body = nn.Sequential(*layers, of.averages(grid), nn.Flatten())
    classifier = nn.Linear(channels * grid ** len(sides), 1)
    return nn.Sequential(OrderedDict(features=body, classifier=classifier)), "classifier"


def mlp(
    shape: Shape, width: Width = 64, layers: Annotated[int, Field(ge=1, le=64)] = 2
) -> tuple[nn.Module, str]:
    """Two layers of 64 with BatchNorm, for tables or flattened images."""
    inputs = int(torch.Size(shape).numel())
    body: list[nn.Module] = [nn.Flatten()]
    for _ in range(layers):
        body += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(*body), classifier=nn.Linear(width, 1))
    ), "classifier"


def linear(shape: Shape) -> tuple[nn.Module, str]:
    """One linear layer on the inputs, from zero: linear or logistic regression. Only a head, so methods that keep heads share nothing."""
    classifier = nn.Linear(int(torch.Size(shape).numel()), 1)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(OrderedDict(features=nn.Flatten(), classifier=classifier)), "classifier"


def digitmodel(shape: Shape) -> tuple[nn.Module, str]:
    """The digits model of FedBN (Li et al., 2021): 5x5 convolutions 64, 64, 128; then 2048, 512; all with BatchNorm."""
    channels, height, width = _image(shape, at_least=4)
    convolutions: list[nn.Module] = []
    for wide, pooled in ((64, True), (64, True), (128, False)):
        convolutions += [nn.Conv2d(channels, wide, 5, padding=2), nn.BatchNorm2d(wide), nn.ReLU()]
        convolutions += [nn.MaxPool2d(2)] if pooled else []
        channels = wide
    flat = channels * (height // 4) * (width // 4)
    body = nn.Sequential(
        *(*convolutions, nn.Flatten()),
        *(nn.Linear(flat, 2048), nn.BatchNorm1d(2048), nn.ReLU()),
        *(nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.ReLU()),
    )
    return nn.Sequential(OrderedDict(features=body, classifier=nn.Linear(512, 1))), "classifier"


def resnet20(shape: Shape) -> tuple[nn.Module, str]:
    """ResNet-20 for 32 px images (He et al., 2016), option-A shortcuts, with the tensor names of most CIFAR files."""
    channels, *_ = _image(shape, at_least=8)
    return _ResNet20(channels), "linear"


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        half = self.added // 2
        return F.relu(
            out + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        )


class _ResNet20(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.arguments = (channels,)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(_Block(16, 16, 1), _Block(16, 16, 1), _Block(16, 16, 1))
        self.layer2 = nn.Sequential(_Block(16, 32, 2), _Block(32, 32, 1), _Block(32, 32, 1))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), _Block(64, 64, 1), _Block(64, 64, 1))
        self.linear = nn.Linear(64, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def written_with(self) -> "Sources":
        return _Block, _ResNet20

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        scores: Tensor = self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
        return scores


def _image(shape: Shape, at_least: int) -> tuple[int, int, int]:
    height, width = image_sides(shape, at_least)
    return shape[0], height, width


def image_sides(shape: Shape, at_least: int, axes: tuple[int, ...] = (3,)) -> Shape:
    """Return the sides of an image or volume of ``shape``. ``axes``: how many an input may have. Raises ModelError."""
    if len(shape) == 2:
        raise ModelError(
            f'takes images, not series of {shape[1]} steps; model.name = "convnet1d" and "gru" take series'
        )
    if len(shape) == 1:
        raise ModelError(f'takes images, not rows of {shape[0]} columns; model.name = "mlp" takes both')
    sides = tuple(shape[1:])
    if len(shape) not in axes:
        text = " x ".join(map(str, sides))
        raise ModelError(f'takes images, not volumes of {text}; model.name = "convnet" takes both')
    if min(sides) < at_least:
        text = " x ".join(map(str, sides))
        raise ModelError(f"takes images of {at_least} px or more, not {text}; set data.size")
    return sides
