"""Masked reconstruction: the body and a decoder fill in hidden columns of a table, frames of a sequence or patches of an image."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor, nn

from fedtl._util.settings import AtLeastOne, Positive
from fedtl.methods.denoise import decoder, errors
from fedtl.methods.losses import Forward, PerExample
from fedtl.models.net import Shape

Hide = Literal["patches", "frames"]
PATCH = 4  # px


class Mask(nn.Module):
    """
    Gives 1 where an input [B, ...] is hidden, else 0: in round(``share`` U) of its U units, at least one, drawn for each row. Units are the
    columns of a table, and in [B, C, H, W] ``patches`` of 4 x 4 px or ``frames``, the columns of the last axis. In evaluation
    mode the first units are hidden.
    """

    def __init__(self, share: float, hide: Hide) -> None:
        super().__init__()
        self.share, self.hide = share, hide

    def forward(self, x: Tensor) -> Tensor:
        patches = x.dim() == 4 and self.hide == "patches"
        high, wide = (-(-side // PATCH) for side in x.shape[2:]) if patches else (1, x.shape[-1])
        hidden = self._drawn(x, high * wide)
        if x.dim() == 2:
            return hidden
        grid = hidden.view(len(x), 1, high, wide)
        if patches:
            grid = F.interpolate(grid, scale_factor=PATCH)[..., : x.shape[2], : x.shape[3]]
        return grid.expand(x.shape)

    def _drawn(self, x: Tensor, units: int) -> Tensor:
        """Return 1 at the hidden units of each row [B, units]."""
        order = torch.rand(len(x), units, device=x.device)
        if not self.training:
            order = torch.arange(units, device=x.device).expand(len(x), -1)
        return (order.argsort(1).argsort(1) < max(1, round(self.share * units))).to(x)


@dataclass(frozen=True)
class Masked(PerExample):
    """
    He et al., 2022 (masked autoencoder): the body and a decoder fill in hidden columns, frames or patches.

    The loss of a row x is weight times the mean over its hidden entries (``Mask``) of ``errors`` of d(f(x')), with f the body, d the
    decoder and x' the row with 0 there: the mean of a scaled column, mid-grey in an image. Other entries do not count.
    """

    any_task = True

    share: Annotated[float, Gt(0), Lt(1)] = 0.3
    hide: Hide = "patches"
    weight: Positive = 1.0
    hidden: AtLeastOne = 128
    source_free = True

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {"masked": decoder(features, self.hidden, shape), "masked_mask": Mask(self.share, self.hide)}

    def losses(self, out: Forward) -> Tensor:
        x = out.batch.x
        mask = out.aux["masked_mask"](x)
        rebuilt = out.aux["masked"](out.of(x * (1 - mask)).features)
        hidden = mask.flatten(1)
        return self.weight * (hidden * errors(rebuilt, x)).sum(1) / hidden.sum(1)
