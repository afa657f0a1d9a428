"""
What each kind of a silo's tensors owes to its rows, and so whether it may influence what leaves.

A clip bounds what one record does to the sum directly. What it does through a head that was trained without noise,
or through exact statistics, nothing bounds: 12.8 to 133 clips were measured. So a tensor carries where it came from,
and only what is covered by the ledger, or owes nothing to the rows, goes into a private round.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from fedtl.errors import Refused
from fedtl.partition import Role


class Label(StrEnum):
    """Where a tensor's values come from."""

    PUBLIC = "public"  # a seed, a declared start, rows declared public
    MECHANISM = "private-mechanism"  # noisy steps alone, all charged
    RELEASED = "released"  # statistics with noise, charged; or sent to the server
    LOCAL = "local-only"  # the silo's rows, without noise: for its own use, never for a release


Labels = Mapping[Role, Label]
WHY = "it owes its values to this silo's rows without noise, and would take them past the clip"


def public(roles: Iterable[Role]) -> Labels:
    """Of a silo that has not been trained yet."""
    return dict.fromkeys(roles, Label.PUBLIC)


def after(before: Labels, moved: Iterable[Role], private: bool, refreshed: bool = False) -> Labels:
    """
    After a round that moved these roles. Without a promise whatever the rows moved is for the silo's own use, from
    then on and for good; with one, statistics stay as they are unless they were released.
    """
    if not private:
        return {**before, **dict.fromkeys(moved, Label.LOCAL)}
    noisy: dict[Role, Label] = dict.fromkeys(set(moved) - {Role.STATS, Role.COUNT}, Label.MECHANISM)
    return {**before, **noisy, **({Role.STATS: Label.RELEASED} if refreshed else {})}


def planned(shared: Iterable[Role], moved: Iterable[Role], refreshed: bool) -> Labels:
    """Of all tensors during a private study: what it shares is released, the rest as ``after`` a round."""
    kept = after(public(Role), moved, private=True, refreshed=refreshed)
    sent = {role: Label.RELEASED for role in shared if role is not Role.STATS or refreshed}
    return {**kept, **sent}


def check(labels: Labels, names: Mapping[str, Role], silo: str) -> None:
    """Raise Refused, naming a tensor, where local state must not go into a private round. No label is no."""
    for name, role in names.items():
        if (label := labels.get(role)) is None:
            raise Refused(f"{silo}: nothing says where {name} comes from, so no private round starts from it")
        if label is Label.LOCAL:
            raise Refused(f"{silo}: {name} is {label}: {WHY}; start it anew, or train without [privacy]")
