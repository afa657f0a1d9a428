"""RandConv: images with another texture and colour, and the shape that they had, train the model to look at shape."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import Fraction, Weight
from fedtl.errors import ConfigError
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import Forward, TaskLoss
from fedtl.methods.sharing import silobn
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
class RandomConvolution(TaskLoss):
    """
    Xu et al., 2021 (RandConv): images with random textures and the same label train the model to look at shapes.

    The loss of a row with a label is weight times the task's loss of the model's scores for x with probability ``keep``, otherwise for
    ``filtered`` (x). The paper adds a loss of consistency of three changes.
    """

    weight: Weight = 1.0
    keep: Fraction = 0.0
    by_pixel = False
    drawn_by_batch = True

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        if len(shape) != 3:
            raise ConfigError(f"randconv changes images, and one input has shape {shape}; remove it")
        return {}

    def losses(self, out: Forward) -> Tensor:
        return self.weight * super().losses(out.of(self._changed(out.batch.x)))

    def _changed(self, x: Tensor) -> Tensor:
        if not self.keep:
            return filtered(x)
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < self.keep
        return torch.where(kept, x, filtered(x))


def randconv(keep: Fraction = 0.5) -> Method:
    """
    Xu et al., 2021 (RandConv), for silos without labels; shares as silobn does: images with random textures, in place of all but
    the share ``keep`` of a silo's own, train the model to look at shapes.

    A step makes one pass, as a step of ``silobn`` does; with the term of the same name it makes two. Tuning at home is on the silo's images
    as they are.
    """
    return replace(silobn(), phases=(Phase(objective=(RandomConvolution(keep=keep),)),))
