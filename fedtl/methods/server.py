"""
The server's step: from the silos' updates to the next shared tensors.

The averaged update is used as a negative gradient (Reddi et al., 2021), so any torch optimiser can take the step: FedAvgM is
``sgd`` with momentum, FedAdam is ``adam``. Tensors that are not weights of the model (normalisation statistics, slots,
summaries) always move by their plain mean.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from fedtl.errors import ConfigError, NotEnoughSilos
from fedtl.messages import Update
from fedtl.methods.base import Memory
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.methods.source_weights import source_weights, weighed
from fedtl.models.roles import Role
from fedtl.models.state import State, add_scaled, weighted_mean

MEANS = ("mean", "median", "trimmed", "trusted")
AVERAGED = frozenset(
    {Role.STATS, Role.EXTRA, Role.SUMMARY}
)  # no weights, so they always move by their plain mean


@dataclass(frozen=True)
class ServerStep:
    """
    The server's aggregation. ``name``: "mean" (weighted by the updates' weights), "median" or "trimmed" (coordinate-wise
    and unweighted, Yin et al., 2018; ``share`` is cut at each end, of few silos one), "trusted" (each silo also by how far its updates
    agree with those of the silos ``trusted``, at a ``pace``: ``source_weights``), or a torch optimiser with its arguments in ``settings``. ``soup``: the final model is the mean of the shared tensors after each of the last rounds,
    of which this is the number (``federation.soup``). Raises ConfigError.
    """

    name: str = "mean"
    share: float = 0.1
    settings: Mapping[str, Any] = field(default_factory=dict)
    soup: int = 1
    trusted: Sequence[str] = ()
    pace: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "trusted", tuple(self.trusted))  # JSON has lists
        if self.name not in (*MEANS, *OPTIMIZERS):
            raise ConfigError(
                f"method.server.name = {self.name!r} is not one of {', '.join((*MEANS, *OPTIMIZERS))}"
            )
        if not 0 <= self.share < 0.5:
            raise ConfigError(f"method.server.share = {self.share} must be at least 0 and below 0.5")
        if (self.name == "trusted") != bool(self.trusted):
            raise ConfigError(
                'method.server.trusted lists the silos whose labels are trusted, for name = "trusted" alone; set both or neither'
            )
        if not 0 < self.pace <= 1:
            raise ConfigError(f"method.server.pace = {self.pace} must be above 0 and at most 1")
        if self.soup < 1:
            raise ConfigError(f"method.server.soup = {self.soup} must be at least 1, the last round alone")
        known = set(inspect.signature(OPTIMIZERS[self.name]).parameters) if self.name in OPTIMIZERS else set()
        if unknown := set(self.settings) - (known - {"params"}):
            raise ConfigError(f"method.server.{sorted(unknown)[0]} is not a setting of {self.name!r}")

    def __call__(
        self, shared: State, updates: Iterable[Update], roles: Mapping[str, Role], memory: Memory
    ) -> tuple[State, Memory]:
        """
        Return the next shared tensors and the state of the server's optimiser. ``updates`` are sorted by silo, because
        their order decides the rounding. A mean holds one update at a time; median and trimmed hold all of them.
        """
        if self.name == "trusted":
            updates, memory = self._weighed(list(updates), roles, memory)
            if not updates:
                return shared, memory
        direction = self._combine(updates, roles)
        if self.name in MEANS or not direction:
            return add_scaled(shared, direction), memory
        plain = {name for name in direction if roles[name] in AVERAGED}
        moved = add_scaled({n: shared[n] for n in plain}, {n: direction[n] for n in plain})
        weights = {n: torch.nn.Parameter(shared[n].clone()) for n in sorted(direction.keys() - plain)}
        optimizer = OPTIMIZERS[self.name](weights.values(), **{"lr": 1.0, **self.settings})
        if memory:
            optimizer.load_state_dict(deepcopy(memory))  # or torch would write into the caller's tensors
        for name, weight in weights.items():
            weight.grad = -direction[name]
        optimizer.step()
        moved |= {name: weight.detach() for name, weight in weights.items()}
        return {name: moved[name] for name in sorted(moved)}, optimizer.state_dict()

    def _weighed(
        self, updates: list[Update], roles: Mapping[str, Role], memory: Memory
    ) -> tuple[list[Update], Memory]:
        """Return the updates by the weights of their silos, and these weights as the memory."""
        compared = [name for name, role in roles.items() if role not in AVERAGED]
        weights = source_weights(updates, memory, self.trusted, self.pace, compared)
        return weighed(updates, weights), weights

    def _combine(self, updates: Iterable[Update], roles: Mapping[str, Role]) -> State:
        if self.name not in ("median", "trimmed"):
            return weighted_mean((update.weight, update.delta) for update in updates)
        updates = list(updates)
        statistics = [name for name in updates[0].delta if roles[name] in AVERAGED]
        combined = weighted_mean(
            (update.weight, {name: update.delta[name] for name in statistics}) for update in updates
        )
        for name in updates[0].delta.keys() - combined.keys():
            stack = torch.stack([update.delta[name] for update in updates])
            combined[name] = _median(stack) if self.name == "median" else _trimmed(stack, self.share)
        return combined


def _median(stack: torch.Tensor) -> torch.Tensor:
    """Return the middle value, or the mean of the two middle ones (torch's own median is the lower one)."""
    ordered, n = stack.sort(0).values, len(stack)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _trimmed(stack: torch.Tensor, share: float) -> torch.Tensor:
    cut = max(int(share * len(stack)), 1 if share else 0)
    if 2 * cut >= len(stack):
        raise NotEnoughSilos(
            f'method.server.name = "trimmed" leaves out {cut} value at each end, and only {len(stack)} silos answered; '
            "it needs 3"
        )
    return stack.sort(0).values[cut : len(stack) - cut].mean(0)
