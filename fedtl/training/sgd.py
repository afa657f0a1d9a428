"""Stochastic gradient descent, as ``torch.optim.SGD`` takes it, without what that class adds to each step."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class Stepper(Protocol):
    """What moves parameters along their gradients: ``Sgd``, or an optimiser of torch."""

    def zero_grad(self) -> object: ...

    def step(self) -> object: ...


class Sgd:
    """
    Moves parameters as ``torch.optim.SGD(..., foreach=True)`` does, to the bit, by torch's own function for its steps. That class
    records each step for torch's profiler and imports torch's compiler: a tenth of a small model's step, and a second of each process.

    ``groups``: parameters by learning rate. A parameter without a gradient stays as it is.
    """

    def __init__(
        self, groups: Mapping[float, Sequence[nn.Parameter]], momentum: float, weight_decay: float
    ) -> None:
        self._groups, self._momentum, self._weight_decay = groups, momentum, weight_decay
        self._velocity: dict[Tensor, Tensor] = {}  # of parameters that took a step with momentum

    def zero_grad(self) -> None:
        for weights in self._groups.values():
            for weight in weights:
                weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for lr, group in self._groups.items():
            weights, gradients, velocities = list[Tensor](), list[Tensor](), list[Tensor | None]()
            for weight in group:
                if weight.grad is not None:
                    weights.append(weight)
                    gradients.append(weight.grad)
                    if self._momentum:
                        velocities.append(self._velocity.get(weight))
            sgd(
                weights,
                gradients,
                velocities,
                any(one.is_sparse for one in gradients),
                foreach=True,
                weight_decay=self._weight_decay,
                momentum=self._momentum,
                lr=lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            for moved, velocity in zip(weights, velocities, strict=False):
                assert velocity is not None
                self._velocity[moved] = velocity
