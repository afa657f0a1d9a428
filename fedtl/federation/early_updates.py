"""Updates that wait until those of the silos before them in name order have come, because updates are added in that order."""

from dataclasses import dataclass, field
from typing import Protocol

from fedtl.messages import Refusal, Update


class EarlyUpdates(Protocol):
    """Keeps updates of one round, one for each silo."""

    def keep(self, update: Update) -> None:
        """Keep an update until it is taken."""
        ...

    def take(self, silo: str) -> Update | Refusal:
        """Return the update of a silo, every bit as it was, and keep it no longer; a refusal where it cannot be read any more."""
        ...

    def clear(self) -> None:
        """Forget all updates, because the round has ended, or because another one begins."""
        ...


@dataclass(frozen=True)
class InMemory:
    """As many of them are in memory as silos reply before their turn."""

    _kept: dict[str, Update] = field(default_factory=dict)

    def keep(self, update: Update) -> None:
        self._kept[update.silo] = update

    def take(self, silo: str) -> Update | Refusal:
        return self._kept.pop(silo)

    def clear(self) -> None:
        self._kept.clear()
