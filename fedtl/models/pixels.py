"""
The scale of pixels that a pretrained body expects. Pixels reach every model as -1..1; where a body was trained on another scale,
its first step, which has no tensors, turns them into (p / 255 - mean) / std by channel.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.net import ModelSpec


@dataclass(frozen=True)
class PixelScale:
    """``mean`` and ``std`` by channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def changes(self) -> bool:
        """Whether it is another scale than -1..1."""
        return set(self.mean) != {0.5} or set(self.std) != {0.5}

    def from_signed(self, x: Tensor) -> Tensor:
        """Return images [N, C, H, W] of -1..1 on this scale: (p / 255 - mean) / std with p = 127.5 (x + 1)."""
        factor = x.new_tensor([0.5 / one for one in self.std])
        shift = x.new_tensor([(0.5 - mean) / std for mean, std in zip(self.mean, self.std, strict=True)])
        return x * factor[:, None, None] + shift[:, None, None]

    def __call__(self, body: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """As a hook before the forward pass of a body."""
        first, *rest = inputs
        return (self.from_signed(first), *rest)

    def for_channels(self, channels: int) -> "PixelScale":
        """
        Return the scale of images with this number of ``channels``. Grey images have the mean over the channels, because the weights
        of a colour model's first layer are added up for them. Raises ModelError.
        """
        if len(self.mean) == channels:
            return self
        if len(self.mean) == 1:
            return PixelScale(self.mean * channels, self.std * channels)
        if channels == 1:
            count = len(self.mean)
            return PixelScale((sum(self.mean) / count,), (sum(self.std) / count,))
        raise ModelError(
            f"model.pixels has {len(self.mean)} channels, and the images have {channels}; set data.channels = 3"
        )


def pixel_scale(values: Sequence[Sequence[float]]) -> PixelScale:
    """Return the scale of ``[[means], [deviations]]``."""
    mean, std = values
    return PixelScale(tuple(mean), tuple(std))


def with_pixel_scale(spec: ModelSpec, scale: PixelScale) -> ModelSpec:
    """Return the model for pixels of -1..1 whose body was trained on ``scale``; itself where that is -1..1. Raises ModelError."""
    scale = scale.for_channels(spec.shape[0])
    if not scale.changes:
        return spec
    body = deepcopy(spec.body)
    body.register_forward_pre_hook(scale)
    return replace(spec, body=body)
