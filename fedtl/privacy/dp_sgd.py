"""
DP-SGD (Abadi et al., 2016): replaces ``loss.mean().backward(); optimizer.step()`` in private training.

A step makes one release, w += optimizer((sum_i clip(g_i) + N(0, (sigma C)^2)) / expected batch). This is the only place
where a model receives a noisy sum over records. What follows the noise (momentum, weight decay) is post-processing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl.errors import ConfigError
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample.clipping import GradientMethod, Losses, clipped, trainable
from fedtl.privacy.per_sample.opacus import opacus_for


def poisson(count: int, rate: float, noise: Noise) -> Tensor:
    """Draw each of ``count`` rows (or units) with probability ``rate``, independently: sorted int64, possibly none."""
    return (noise.uniform(count) < rate).nonzero().flatten()


@dataclass(frozen=True)
class NoisySum:
    """
    What one step releases: the sum of the records' gradients over all trainable parameters, each of a norm of at most
    ``clip``, with noise of standard deviation ``noise_multiplier`` times ``clip``, divided by ``expected_batch`` (sample
    rate times number of records) whatever the batch holds. Raises ConfigError unless all three are finite and above 0.
    """

    clip: float
    noise_multiplier: float
    expected_batch: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"privacy: {name} is {value}; it must be a number above 0")


class Mechanism:
    """
    The private steps of one phase of one round.

    ``method``: how per-example gradients are computed, as ``choose_gradient_method`` found. ``microbatch``: the most rows
    that are computed at once, 0 for no limit; the sum and its noise are those of the whole batch.

    Raises ConfigError unless ``optimizer`` has exactly the net's trainable parameters, because a parameter that another
    optimizer moved would not be protected.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        release: NoisySum,
        noise: Noise,
        method: GradientMethod,
        microbatch: int = 0,
    ) -> None:
        moved = {weight for group in optimizer.param_groups for weight in group["params"]}
        names = {name for name, weight in net.named_parameters() if weight.requires_grad != (weight in moved)}
        if names or not moved <= set(net.parameters()):
            raise ConfigError(
                f"privacy: the optimizer's parameters differ from the trainable parameters of the net: {sorted(names)[:3]}"
            )
        with opacus_for("private training"):
            from fedtl.privacy.per_sample.hooks import NoisyOptimizer
        self._net, self._trainable, self._clip = net, trainable(net), release.clip
        self._method, self._microbatch = method, microbatch
        self._optimizer = NoisyOptimizer(
            *(
                optimizer,
                self._trainable,
                release.clip,
                release.noise_multiplier,
                release.expected_batch,
                noise,
            )
        )

    def step(
        self,
        rows: Tensor,
        losses: Losses,
        units: Tensor | None = None,
        before_optimizer: Callable[[], None] | None = None,
    ) -> None:
        """
        Take one noisy step on these rows, of which there may be none. No raw gradient remains, even if it fails.

        ``units`` [B], for example patients' numbers: the gradients of a unit are summed before the clip, so that the
        unit is protected. ``before_optimizer`` runs between the noise and the optimizer, for loss terms that depend on
        weights alone and add to ``.grad``. Raises ConfigError unless ``losses`` returns one loss for each row.
        """
        step = self._optimizer
        step.attach_step_hook(None if before_optimizer is None else lambda _: before_optimizer())
        try:
            parts = list(_parts(rows, units, self._microbatch))
            for number, (part, part_units) in enumerate(parts, 1):
                self._set_gradients(clipped(self._method, self._net, part, losses, self._clip, part_units))
                step.signal_skip_step(number < len(parts))
                step.step()
            if not parts:
                self._set_gradients([torch.zeros_like(weight) for weight in self._trainable])
                step.step()
        finally:
            step.forget()
            self._net.zero_grad()

    def _set_gradients(self, total: list[Tensor]) -> None:
        for weight, part in zip(self._trainable, total, strict=True):
            weight.grad = part


def _parts(rows: Tensor, units: Tensor | None, most: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Divide the rows into parts of at most ``most``, 0 for no limit. A unit is never divided, so its part may be larger."""
    most = most or max(len(rows), 1)
    if units is None:
        yield from ((part, None) for part in rows.split(most) if len(part))
        return
    order = units.argsort(stable=True)
    rows, units = rows[order], units[order]
    begin = end = 0
    for size in units.unique_consecutive(return_counts=True)[1].tolist():
        if end > begin and end + size - begin > most:
            yield rows[begin:end], units[begin:end]
            begin = end
        end += size
    if end > begin:
        yield rows[begin:end], units[begin:end]
