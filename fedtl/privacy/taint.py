"""
What each kind of a silo's tensors owes to its rows, and so whether it may influence what leaves.

A clip bounds what one record does to the sum directly. What it does through a head that was trained without noise,
or through exact statistics, nothing bounds: 12.8 to 133 clips were measured. So a tensor carries where it came from,
and only what is covered by the ledger, or owes nothing to the rows, goes into a private round.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from fedtl.errors import Refused
from fedtl.models.roles import Role


class Label(StrEnum):
    """Where a tensor's values come from; from what owes nothing to what owes most."""

    PUBLIC = "public"  # a seed, a declared start, rows declared public
    MECHANISM = "private-mechanism"  # noisy steps alone, all charged
    RELEASED = "released"  # statistics with noise, charged; or sent to the server
    LOCAL = "local-only"  # rows, without noise: for their silo's own use, never for a release


Labels = Mapping[str, Label]  # by the names of tensors
Key = TypeVar("Key", bound=str)  # a role, for what a silo keeps; or a tensor's name, for what a file holds
STILL = frozenset({Role.STATS, Role.COUNT})  # what no private step moves
WHY = "it owes its values to rows without noise, and would take them past the clip"


def public(keys: Iterable[Key]) -> dict[Key, Label]:
    """Of what has not been trained yet."""
    return dict.fromkeys(keys, Label.PUBLIC)


def after(
    before: Mapping[Key, Label], moved: Iterable[Key], private: bool, released: Iterable[Key] = ()
) -> dict[Key, Label]:
    """
    After training that moved these. Without a promise whatever the rows moved is for the silo's own use, from
    then on and for good; with one, noise has covered it, and ``released`` has been let go.
    """
    moves = dict.fromkeys(moved, Label.MECHANISM if private else Label.LOCAL)
    return {**before, **moves, **dict.fromkeys(released, Label.RELEASED)}


def together(some: Iterable[Mapping[Key, Label]]) -> dict[Key, Label]:
    """Of averages over several silos: each owes what the one owes that owes most."""
    order, found = list(Label), dict[Key, Label]()
    for its in some:
        found |= {key: max(label, found.get(key, label), key=order.index) for key, label in its.items()}
    return found


def local_only(labels: Mapping[Key, Label]) -> list[Key]:
    """What must not go into private training."""
    return sorted(key for key, label in labels.items() if label is Label.LOCAL)


def by_tensor(labels: Labels, roles: Mapping[str, Role]) -> dict[str, Label]:
    """Return the labels of these tensors, as far as they are known; earlier versions kept them by role."""
    known = {name: labels.get(name, labels.get(role)) for name, role in roles.items()}
    return {name: label for name, label in known.items() if label is not None}


def check(labels: Labels, names: Iterable[str], silo: str) -> None:
    """Raise Refused, naming a tensor, where local state must not go into a private round; one without a label must not."""
    for name in names:
        if name not in labels:
            raise Refused(f"{silo}: nothing says where {name} comes from, so no private round starts from it")
    if odd := local_only({name: labels[name] for name in names}):
        raise Refused(f"{silo}: {odd[0]} is {Label.LOCAL}: {WHY}; start it anew, or train without [privacy]")
