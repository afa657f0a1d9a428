"""
A registry of named entries: fedtl's own, and those of other packages installed on this machine.

A package adds an entry with an entry point (group ``fedtl.models``, ``fedtl.methods``, ``fedtl.terms`` or
``fedtl.data``). An experiment can only choose a name from a registry: it never names code.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, cast

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Entries by name, read only. An installed package cannot replace an entry of fedtl's own."""

    def __init__(self, group: str, own: Mapping[str, T]) -> None:
        self.group, self.own = group, own

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self.own}

    def __getitem__(self, name: str) -> T:
        return self.own[name] if name in self.own else cast(T, self._installed[name].load())

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from sorted(self._installed)

    def __len__(self) -> int:
        return len(self.own) + len(self._installed)
