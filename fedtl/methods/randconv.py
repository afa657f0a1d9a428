"""RandConv: images with another texture and colour, and the shape that they had, train the model to look at shape."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import Weight
from fedtl.errors import ConfigError
from fedtl.methods.losses import Forward, PerExample
from fedtl.models.net import Shape

SIZES = (1, 3, 5, 7)  # of filters, as in the paper's random convolutions of several scales


def filtered(x: Tensor) -> Tensor:
    """
    Return images [B, C, H, W], each with a filter of its own, drawn from torch's global generator; all of one batch have one size k.

    x' = a x + (1 - a) (w * x), with a from U(0, 1) and the C x C x k x k entries of w from N(0, 1 / (C k^2)).
    """
    rows, channels, height, width = x.shape
    size = SIZES[int(torch.randint(len(SIZES), ()))]
    weights = torch.randn(rows * channels, channels, size, size, device=x.device) / (channels**0.5 * size)
    changed = F.conv2d(x.reshape(1, -1, height, width), weights, padding=size // 2, groups=rows).view_as(x)
    share = torch.rand(rows, 1, 1, 1, device=x.device)
    return torch.lerp(changed, x, share)


@dataclass(frozen=True)
class RandomConvolution(PerExample):
    """
    Xu et al., 2021 (RandConv): images with random textures and the same label train the model to look at shapes.

    The loss of a row with a label is weight times the task's loss of the model's scores for ``filtered`` (x). The paper trains on
    changed images in place of half of the others, and adds a loss of consistency of three changes.
    """

    weight: Weight = 1.0
    any_task = True

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        if len(shape) != 3:
            raise ConfigError(f"randconv changes images, and one input has shape {shape}; remove it")
        return {}

    def losses(self, out: Forward) -> Tensor:
        changed = out.of(filtered(out.batch.x))
        return self.weight * out.batch.task.training_losses(changed.scores, out.batch.y)

    def counts(self, out: Forward) -> Tensor:
        return out.batch.labelled
