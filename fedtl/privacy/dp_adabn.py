"""
DP-AdaBN: the statistics of a silo's own normalisation layers, released under differential privacy.

The layers are adapted one after the other, because a layer's inputs depend on the layers before it. All of it costs one
Gaussian mechanism of sample rate 1; the number of units is public.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtl.messages import SpendEvent
from fedtl.models.dp_norm import FixedNorm
from fedtl.models.state import State
from fedtl.privacy.canaries import Canaries, CanarySums
from fedtl.privacy.noise import Noise
from fedtl.privacy.unit_vectors import clipped, unit_means

# Clip radii in standard deviations per coordinate, from coarse to fine; each radius takes an equal share of the budget.
RADII = (4.0, 1.0)
MAX_ACTIVATION = 30.0  # standard deviations to which an activation is clamped
STD_OVER_DEVIATION = math.sqrt(
    math.pi / 2
)  # standard deviation over mean absolute deviation of a normal distribution
SCALE_CHANGES = 0.2, 30.0  # the smallest and largest factor that one sub-release may apply to a scale

Batches = Callable[[], Iterable[tuple[Tensor, Tensor | None]]]  # inputs, and the unit of each row


def adaptable_layers(body: nn.Module) -> dict[str, FixedNorm]:
    """Return the layers whose statistics can be released, by path, in the order in which they are registered."""
    return {path: module for path, module in body.named_modules() if isinstance(module, FixedNorm)}


@dataclass(frozen=True)
class StatisticsRelease:
    """
    One release, before the first round's training: which ``layers`` of the body, with how many ``channels`` each, over how
    many ``units``, and with how much noise.

    With P radii r_p, layers of C_l channels and D = sum_l 2 C_l, every sub-release of radius r has the clip
    r sqrt(C_l) and the standard deviation s = sigma sqrt(P) r sqrt(D). The squared ratios of clip and noise add up to
    sum_p sum_l 2 r_p^2 C_l / s_p^2 = 1 / sigma^2: one Gaussian mechanism of noise multiplier sigma.
    """

    noise_multiplier: float
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    units: int

    @property
    def event(self) -> SpendEvent:
        return SpendEvent(self.noise_multiplier, 1.0, 1)

    def noise_std(self, radius: float) -> float:
        """Standard deviation of the noise on a sum over units, in standard deviations of the activation."""
        total = 2 * sum(self.channels)
        return self.noise_multiplier * math.sqrt(len(RADII)) * radius * math.sqrt(total)

    @property
    def mean_noise_std(self) -> float:
        """The last radius' noise on one coordinate's mean, before shrinkage, in standard deviations of the activation."""
        return self.noise_std(RADII[-1]) / self.units


@torch.no_grad()
def release_statistics(
    body: nn.Module,
    batches: Batches,
    release: StatisticsRelease,
    noise: Noise,
    canaries: Canaries | None = None,
) -> State:
    """
    Set new statistics in the release's layers of ``body``, and return them by the body's names. ``canaries`` take
    coordinates after each layer's own.

    ``batches`` yields inputs, from the start at each call, and each row's unit number (None: every row is a unit); a
    unit of several rows counts as their mean.
    """
    fixed, canary_statistics = adaptable_layers(body), CanarySums(canaries)

    def noisy_mean(path: str, radius: float, measure: Callable[[Tensor], Tensor]) -> Tensor:
        limit, std = radius * math.sqrt(fixed[path].running_mean.numel()), release.noise_std(radius)
        parts = canary_statistics.append_to(unit_means(_measured(body, path, batches, measure)), limit)
        total = sum(clipped(part, limit).sum(0) for part in parts)
        assert isinstance(total, Tensor)
        noisy = canary_statistics.remove_from(noise.add(total.double(), std), limit, std)
        return _shrunk(noisy / release.units, std / release.units).to(total)

    for radius in RADII:
        for path in release.layers:
            norm = fixed[path]
            moved = noisy_mean(path, radius, lambda z: z.clamp(-MAX_ACTIVATION, MAX_ACTIVATION))
            norm.running_mean += moved * (norm.running_var + norm.eps).sqrt()
            wider = noisy_mean(
                path, radius, lambda z: z.abs().clamp(max=MAX_ACTIVATION) * STD_OVER_DEVIATION - 1
            )
            norm.running_var *= (1 + wider).clamp(*SCALE_CHANGES) ** 2
    canary_statistics.save()
    return {
        f"{path}.{name}": tensor.detach().cpu().clone()
        for path in release.layers
        for name, tensor in fixed[path].named_buffers()
    }


def _measured(
    body: nn.Module, path: str, batches: Batches, measure: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield ``measure`` of each row's normalised activations at a layer, averaged over positions: [B, C]."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(measure(output).flatten(2).mean(2) if output.dim() > 2 else measure(output))
        raise _LayerReached

    hook = body.get_submodule(path).register_forward_hook(stop)
    try:
        for x, units in batches():
            try:
                body(x)
            except _LayerReached:
                yield seen.pop(), units
    finally:
        hook.remove()


class _LayerReached(Exception):
    """Ends a forward pass at the layer that is measured."""


def _shrunk(values: Tensor, deviation: float) -> Tensor:
    """Shrink towards no change, by the positive-part estimator of James and Stein (1961)."""
    return values * max(0.0, 1 - deviation**2 / max(float(values.square().mean()), 1e-12))
