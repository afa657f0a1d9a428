"""Two views of a row that mean the same: what contrastive losses compare. Each row draws its own change."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor, nn

from fedtl._util.settings import Fraction
from fedtl.methods.losses import Forward, PerBatch

Area = Annotated[float, Gt(0), Le(1)]
SIDES = (3 / 4, 4 / 3)  # width over height of a cut-out, as in SimCLR


@dataclass(frozen=True)
class TwoViews(PerBatch):
    """
    How a row is changed. Images: a rectangle of ``crop`` to 1 of the area is cut out and resized, mirrored left to right with
    probability 1/2 where ``mirror`` says so (not for digits), and its contrast is multiplied by 1 - ``jitter`` to 1 + ``jitter`` and its
    brightness shifted by up to ``jitter``. Tables: a share ``corrupt`` of the columns takes the values of other rows.
    """

    any_task = True

    crop: Area = 0.4
    jitter: Fraction = 0.4
    mirror: bool = False
    corrupt: Fraction = 0.3
    source_free = True

    def view(self, x: Tensor) -> Tensor:
        """Return a changed copy of rows [B, ...], drawn from torch's global generator."""
        if x.dim() != 4:
            return corrupted(x, self.corrupt)
        return _jittered(_cut_out(x, self.crop, self.mirror), self.jitter)

    def two_views(self, out: Forward) -> tuple[Tensor, Tensor]:
        """Return the features [B, D] of two views of each row, which go through the model as one batch of 2 B rows."""
        views = torch.cat([self.view(out.batch.x), self.view(out.batch.x)])
        one, other = out.of(views).features.chunk(2)
        return one, other


def corrupted(x: Tensor, share: float) -> Tensor:
    """
    Return rows [B, ...] of which floor(share M) of the M entries, other ones in each row, have the value of a row of the batch
    that is drawn for each: the marginal distribution of the column (Bahri et al., 2022).
    """
    flat = x.flatten(1)
    rows, entries = flat.shape
    changed = torch.rand(rows, entries, device=x.device).argsort(1).argsort(1) < int(share * entries)
    drawn = torch.randint(rows, (rows, entries), device=x.device)
    return torch.where(changed, flat.gather(0, drawn), flat).view(x.shape)


def projector(features: int, dims: int) -> nn.Module:
    """
    Return g: from features to ``dims`` numbers, through one hidden layer as wide as the features. Hidden values are normalised in
    each row, so that no scale of the features makes the loss diverge; the papers do it over the batch.
    """
    hidden = nn.LayerNorm(features, elementwise_affine=False)
    return nn.Sequential(nn.Linear(features, features), hidden, nn.ReLU(), nn.Linear(features, dims))


def _cut_out(x: Tensor, least: float, mirror: bool) -> Tensor:
    """Cut out a rectangle of each image and resize it to the image's size, with bilinear interpolation."""
    area = _uniform(x, least, 1).sqrt()
    side = _uniform(x, *(number**0.5 for number in SIDES))
    width, height = (area * side).clamp(max=1), (area / side).clamp(max=1)
    left, top = (1 - width) * _uniform(x, -1, 1), (1 - height) * _uniform(x, -1, 1)
    if mirror:
        width = width * torch.where(_uniform(x, 0, 1) < 0.5, -1, 1)
    nothing = torch.zeros_like(width)
    maps = torch.stack([width, nothing, left, nothing, height, top], 1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _jittered(x: Tensor, jitter: float) -> Tensor:
    contrast, shift = (
        _uniform(x, *ends)[:, None, None, None] for ends in ((1 - jitter, 1 + jitter), (-jitter, jitter))
    )
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * contrast + mean + shift


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """Draw one number for each row [B]."""
    return low + (high - low) * torch.rand(len(x), device=x.device)
