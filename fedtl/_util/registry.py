"""
A table of named things: fedtl's own, and those that packages installed on this machine offer.

A package offers one through an entry point (group ``fedtl.models``, ``fedtl.methods`` or ``fedtl.data``). An
experiment can only choose among names that are here: it never names code.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, cast

T = TypeVar("T")


class Table(Mapping[str, T]):
    """Read-only. An installed package cannot replace a name of fedtl's own."""

    def __init__(self, group: str, own: Mapping[str, T]) -> None:
        self.group, self.own = group, own

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self.own}

    def __getitem__(self, name: str) -> T:
        return self.own[name] if name in self.own else cast(T, self._offered[name].load())

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from sorted(self._offered)

    def __len__(self) -> int:
        return len(self.own) + len(self._offered)
