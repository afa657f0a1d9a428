"""
DP-SGD (Abadi et al., 2016): what takes the place of ``loss.mean().backward(); optimizer.step()`` in private training.

A step is one release, w += optimizer((sum_i clip(g_i) + N(0, (sigma C)^2)) / expected batch): the one place where a
model meets records whose sum is noisy. What comes after the noise (momentum, weight decay) costs nothing.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl.errors import ConfigError
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample.clipping import Losses, by_book, by_hooks, clipped, moving
from fedtl.privacy.per_sample.opacus import opacus_for


def poisson(count: int, rate: float, noise: Noise) -> Tensor:
    """Each of ``count`` rows (or units) with probability ``rate``, independently: int64, in order, perhaps none."""
    return (noise.uniform(count) < rate).nonzero().flatten()


class Mechanism:
    """
    The private steps of one stretch of training.

    ``clip`` bounds the length of one record's gradient over all parameters that move, ``noise_multiplier`` times
    ``clip`` is the standard deviation of the noise on the sum, and ``expected_batch`` (sampling rate times number
    of records) divides it, whatever the batch holds. ``fast``: book-keeping instead of hooks, where ``proven``
    allows it. ``microbatch``: so many rows at once, 0 for all; the sum and its noise are the batch's.

    Raises ConfigError unless ``optimizer`` moves exactly the net's parameters that require gradients: what moves
    beside it moves unprotected.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        clip: float,
        noise_multiplier: float,
        expected_batch: float,
        noise: Noise,
        fast: bool = False,
        microbatch: int = 0,
    ) -> None:
        numbers = {"clip": clip, "noise_multiplier": noise_multiplier, "expected_batch": expected_batch}
        for name, value in numbers.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"privacy: {name} is {value}; it must be a number above 0")
        moved = {weight for group in optimizer.param_groups for weight in group["params"]}
        names = {name for name, weight in net.named_parameters() if weight.requires_grad != (weight in moved)}
        if names or not moved <= set(net.parameters()):
            raise ConfigError(
                f"privacy: the optimizer must move what the net trains, no more and no less: {sorted(names)[:3]}"
            )
        with opacus_for("private training"):
            from fedtl.privacy.per_sample.hooks import NoisyOptimizer
        self._net, self._moving, self._clip = net, moving(net), clip
        self._take, self._microbatch = (by_book if fast else by_hooks), microbatch
        self._optimizer = NoisyOptimizer(
            optimizer, self._moving, clip, noise_multiplier, expected_batch, noise
        )

    def step(
        self,
        rows: Tensor,
        losses: Losses,
        units: Tensor | None = None,
        beside: Callable[[], None] | None = None,
    ) -> None:
        """
        One noisy step on these rows, of which there may be none. Nothing raw is left, even when it fails.

        ``units`` [B], such as patients' numbers: the gradients of a unit are summed before the clip, so that the
        unit is what is protected. ``beside`` runs between the noise and the optimizer, for loss terms that
        see weights alone and add to ``.grad``. Raises ConfigError where ``losses`` does not give one a row.
        """
        if units is not None and self._take is by_book:
            raise ConfigError("privacy: units of several rows need fast = False")
        step = self._optimizer
        step.attach_step_hook(None if beside is None else lambda _: beside())
        try:
            parts = list(_parts(rows, units, self._microbatch))
            for number, (part, its) in enumerate(parts, 1):
                self._give(clipped(self._take, self._net, part, losses, self._clip, its))
                step.signal_skip_step(number < len(parts))
                step.step()
            if not parts:
                self._give([torch.zeros_like(weight) for weight in self._moving])
                step.step()
        finally:
            step.forget()
            self._net.zero_grad()

    def _give(self, total: list[Tensor]) -> None:
        for weight, part in zip(self._moving, total, strict=True):
            weight.grad = part


def _parts(rows: Tensor, units: Tensor | None, most: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The rows in parts of at most so many, 0 for all; units are never cut, so that one may exceed it."""
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
