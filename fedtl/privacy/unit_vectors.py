"""Vectors of protected units, each of a bounded length, as every release of a sum over units needs them."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def unit_means(parts: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
    """Yield one vector for each unit, the mean of its rows."""
    gathered: list[tuple[Tensor, Tensor]] = []
    for values, units in parts:
        if units is None:
            yield values
        else:
            gathered.append((values, units))
    if gathered:
        values = torch.cat([part for part, _ in gathered])
        _, which = torch.cat([units for _, units in gathered]).unique(return_inverse=True)
        which = which.to(values.device)
        sums = values.new_zeros(int(which.max()) + 1, values.shape[1]).index_add_(0, which, values)
        yield sums / which.bincount()[:, None]


def clipped(values: Tensor, limit: float) -> Tensor:
    """Scale each row to a norm of at most ``limit``; values that are not finite count as 0."""
    values = values.nan_to_num(0.0, 0.0, 0.0)
    return values * (limit / values.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
