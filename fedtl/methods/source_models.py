"""The models of all silos, kept apart: each crosses to every silo, as well as their mean."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor

from fedtl.errors import ConfigError
from fedtl.messages import Update
from fedtl.methods.base import Memory
from fedtl.methods.group_means import group_means
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import SUMMARY, as_part, model_part
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model
from fedtl.models.roles import Role
from fedtl.models.state import State, add_scaled, copy_state, weighted_mean

Sources = Annotated[int, Ge(2), Le(64)]


def source_names(sources: int) -> tuple[str, ...]:
    """Return the names of the sets of ``sources`` models."""
    return tuple(f"source_{number}" for number in range(1, sources + 1))


def source_slots(sources: int) -> tuple[Slot, ...]:
    """Return the slots that hold them; silos do not change them."""
    return tuple(Slot(name, first_model, crosses=True) for name in source_names(sources))


@dataclass(frozen=True)
class Source:
    """A silo with labels in a round: the number of its slot from 0, its update, and its ``summaries``."""

    number: int
    update: Update
    summaries: State


Shares = Callable[[Sequence[Source], State], Sequence[float]]


@dataclass(frozen=True)
class KeepSources:
    """
    The server's step: the models of the silos with labels go into slots, a silo's always into the same one, and those of empty
    slots are the mean. The mean is FedAvg's, where the silos with labels count as ``shares`` says, from their updates and the mean
    summaries; together as much as their rows. Which silos have labels follows from the groups of the summary ``tells``; "": all.
    """

    sources: int
    tells: str = ""
    shares: Shares | None = None

    def __call__(
        self, shared: State, updates: Iterable[Update], roles: Mapping[str, Role], memory: Memory
    ) -> tuple[State, Memory]:
        updates, model = list(updates), model_part(shared)
        averaged, _ = ServerStep()(shared, updates, roles, {})
        found, memory = self._sources(shared, updates, memory)
        if self.shares is not None and found:
            counts = _counts(found, self.shares(found, averaged))
            changes = ((counts.get(one.silo, one.weight), model_part(one.delta)) for one in updates)
            averaged |= add_scaled(model, weighted_mean(changes))
        filled = memory["sources"].values()
        for number, name in enumerate(source_names(self.sources)):
            if number not in filled:
                averaged |= as_part(name, copy_state(model_part(averaged)))
        for one in found:
            own = add_scaled(model, model_part(one.update.delta))
            averaged |= as_part(source_names(self.sources)[one.number], own)
        return {name: averaged[name] for name in sorted(averaged)}, memory

    def _sources(
        self, shared: State, updates: Sequence[Update], memory: Memory
    ) -> tuple[list[Source], Memory]:
        """Return the silos with labels, and the memory with the numbers of those that are new."""
        numbers, found = dict(memory.get("sources", {})), []
        for update in updates:
            own = {
                name: shared[name] + update.delta[name] for name in shared if name.startswith(f"{SUMMARY}/")
            }
            if not self.tells or summary_groups(own, self.tells)[1][0] > 0:
                found.append(Source(numbers.setdefault(update.silo, len(numbers)), update, own))
        if len(numbers) > self.sources:
            raise ConfigError(
                f"method.sources = {self.sources}, but {len(numbers)} silos have labels; set it to {len(numbers)}"
            )
        return found, {"sources": numbers}


def _counts(found: Sequence[Source], shares: Sequence[float]) -> dict[str, float]:
    """Return how much each silo with labels counts: its rows times its share, together as much as their rows."""
    rows = [one.update.weight for one in found]
    weighted = [weight * max(0.0, share) for weight, share in zip(rows, shares, strict=True)]
    if not sum(weighted) > 0:
        return {}
    return {
        one.update.silo: weight * sum(rows) / sum(weighted)
        for one, weight in zip(found, weighted, strict=True)
    }


def summary_groups(summaries: State, name: str) -> tuple[Tensor, Tensor]:
    """Return ``group_means`` of a summary by its name."""
    return group_means(summaries[f"{SUMMARY}/{name}"])
