"""
DP-AdaBN: the statistics of a silo's own norms, released under differential privacy.

One after another, because a layer can only be looked at through those before it. The whole refresh costs one Gaussian
mechanism of sample rate 1; the records' number n is public.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtl.models.dp_norm import FixedNorm
from fedtl.models.state import State
from fedtl.privacy.canaries import Canaries, CanaryStatistics
from fedtl.privacy.noise import Noise

RADII = (
    4.0,
    1.0,
)  # of the clip, in standard deviations a coordinate; coarse to fine, each with an equal share
BOUND = 30.0  # standard deviations beyond which an activation counts no more
GAUSSIAN = math.sqrt(math.pi / 2)  # standard deviation over mean absolute deviation of a normal distribution
SCALES = 0.2, 30.0  # what a scale may be multiplied by at once


def layers(body: nn.Module) -> dict[str, FixedNorm]:
    """The norms whose statistics can be refreshed, by path, from the input on as they are registered."""
    return {path: module for path, module in body.named_modules() if isinstance(module, FixedNorm)}


@dataclass(frozen=True)
class Release:
    """
    How much noise one refresh adds, and what a record may add to a sum.

    With P radii r_p, layers of C_l channels and D = sum_l 2 C_l, every sub-release of radius r has the clip
    r sqrt(C_l) and the standard deviation s = sigma sqrt(P) r sqrt(D). The squared ratios of clip and noise add up to
    sum_p sum_l 2 r_p^2 C_l / s_p^2 = 1 / sigma^2: one Gaussian mechanism of noise multiplier sigma.
    """

    noise_multiplier: float
    channels: Sequence[int]
    records: int

    def deviation(self, radius: float) -> float:
        """Standard deviation of the noise on a sum over records, in standard deviations of the activation."""
        total = 2 * sum(self.channels)
        return self.noise_multiplier * math.sqrt(len(RADII)) * radius * math.sqrt(total)

    @property
    def expected(self) -> float:
        """The last radius' noise on a coordinate's mean, before shrinkage, in standard deviations."""
        return self.deviation(RADII[-1]) / self.records


@torch.no_grad()
def refresh(
    body: nn.Module,
    rows: Callable[[], Iterable[tuple[Tensor, Tensor | None]]],
    release: Release,
    noise: Noise,
    chosen: Sequence[str],
    canaries: Canaries | None = None,
) -> State:
    """
    New statistics for the ``chosen`` layers, by the body's names; the body has them too when this ends. ``canaries``
    go beside each layer's coordinates.

    ``rows`` gives batches of inputs, each time anew, and for each row the number of its unit (None: a unit each);
    a unit of several rows counts as their mean. ``release.records``: the number of units, declared.
    """
    fixed, side = layers(body), CanaryStatistics(canaries)
    found: State = {}
    for radius in RADII:
        deviation = release.deviation(radius)

        def mean_over(path: str, look: Callable[[Tensor], Tensor], radius: float = radius) -> Tensor:
            limit = radius * math.sqrt(fixed[path].running_mean.numel())
            parts = side.parts(_units(_looks(body, path, rows, look)), limit)
            total = sum(_clipped(part, limit).sum(0) for part in parts)
            assert isinstance(total, Tensor)
            noisy = side.own(noise.add(total.double(), deviation), limit, deviation)  # noqa: B023
            return _shrunk(noisy / release.records, deviation / release.records).to(total)  # noqa: B023

        for path in chosen:
            norm = fixed[path]
            moved = mean_over(path, lambda z: z.clamp(-BOUND, BOUND))
            norm.running_mean += moved * (norm.running_var + norm.eps).sqrt()
            wider = mean_over(path, lambda z: z.abs().clamp(max=BOUND) * GAUSSIAN - 1)
            norm.running_var *= (1 + wider).clamp(*SCALES) ** 2
    side.keep()
    for path in chosen:
        for name, tensor in fixed[path].named_buffers():
            found[f"{path}.{name}"] = tensor.detach().cpu().clone()
    return found


def _looks(
    body: nn.Module,
    path: str,
    rows: Callable[[], Iterable[tuple[Tensor, Tensor | None]]],
    look: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What ``look`` makes of each row's normalised activations at a layer, averaged over positions: [B, C]."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(look(output).flatten(2).mean(2) if output.dim() > 2 else look(output))
        raise _Reached

    hook = body.get_submodule(path).register_forward_hook(stop)
    try:
        for x, units in rows():
            try:
                body(x)
            except _Reached:
                yield seen.pop(), units
    finally:
        hook.remove()


class _Reached(Exception):
    """The layer that was asked for has been reached; what comes after it is not needed."""


def _units(parts: Iterator[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
    """One vector a unit, the mean of its rows."""
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


def _clipped(values: Tensor, limit: float) -> Tensor:
    """Each row scaled to a length of at most ``limit``; one that is not finite counts as nothing."""
    values = values.nan_to_num(0.0, 0.0, 0.0)
    return values * (limit / values.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)


def _shrunk(values: Tensor, deviation: float) -> Tensor:
    """James and Stein, 1961, positive part: towards no change, as far as the change may be noise."""
    return values * max(0.0, 1 - deviation**2 / max(float(values.square().mean()), 1e-12))
