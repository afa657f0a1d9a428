"""Stochastic gradient descent, as ``torch.optim.SGD`` takes it, without what that class adds to each step."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Stepper(Protocol):
    """What moves parameters along their gradients: ``Sgd``, or an optimiser of torch."""

    def zero_grad(self) -> object: ...

    def step(self) -> object: ...


class Sgd:
    """
    Moves parameters as ``torch.optim.SGD(..., foreach=True)`` does, to the bit, by the same kernels. That class records each step for
    torch's profiler and imports torch's compiler: a tenth of a small model's step, and a second of each process.

    ``groups``: parameters by learning rate. A parameter without a gradient stays as it is.
    """

    def __init__(
        self, groups: Mapping[float, Sequence[nn.Parameter]], momentum: float, weight_decay: float
    ) -> None:
        self._groups, self._momentum, self._weight_decay = groups, momentum, weight_decay
        self._velocity: dict[int, Tensor] = {}  # by id, of parameters that took a step with momentum

    def zero_grad(self) -> None:
        for weights in self._groups.values():
            for weight in weights:
                weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for lr, group in self._groups.items():
            weights: list[Tensor] = [weight for weight in group if weight.grad is not None]
            directions = [weight.grad for weight in weights if weight.grad is not None]
            if weights and self._weight_decay:
                directions = list(torch._foreach_add(directions, weights, alpha=self._weight_decay))
            if weights and self._momentum:
                directions = self._velocities(weights, directions)
            if weights:
                torch._foreach_add_(weights, directions, alpha=-lr)

    def _velocities(self, weights: Sequence[Tensor], directions: Sequence[Tensor]) -> list[Tensor]:
        """Return the velocities of weights after a step in these directions; that of a first step is the direction itself."""
        known = [self._velocity.get(id(weight)) for weight in weights]
        moving = [number for number, velocity in enumerate(known) if velocity is not None]
        if moving:
            old = [velocity for velocity in known if velocity is not None]
            torch._foreach_mul_(old, self._momentum)
            torch._foreach_add_(old, [directions[number] for number in moving])
        for weight, direction, velocity in zip(weights, directions, known, strict=True):
            if velocity is None:
                self._velocity[id(weight)] = direction.clone()
        return [self._velocity[id(weight)] for weight in weights]
