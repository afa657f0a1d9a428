"""
Provenance labels: how a silo's tensors depend on its rows, and so whether they may influence a private release.

The clip bounds the direct effect of one record on the sum. It does not bound its effect through a head
that was trained without noise, or through exact statistics: effects of 12.8 to 133 clips were measured. So every tensor
has a label, and a private round starts only from tensors that do not depend on the rows, or whose privacy cost is in the
ledger.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from fedtl.errors import Refused
from fedtl.models.roles import Role


class Label(StrEnum):
    """How a tensor depends on the silo's rows, from not at all to without any protection."""

    PUBLIC = "public"  # from a seed, declared initial weights, or rows that were declared public
    MECHANISM = "private-mechanism"  # trained privately: by noisy steps only, all of them charged
    RELEASED = "released"  # statistics with noise, charged; or sent to the server
    LOCAL = "local-only"  # trained on rows without noise: for use at the silo, never for a release


Labels = Mapping[str, Label]  # by tensor name; tensors of slots and summaries included
Key = TypeVar("Key", bound=str)
UNTRAINED_ROLES = frozenset({Role.STATS, Role.COUNT})  # roles that no private step changes
WHY_REFUSED = (
    "it was trained on private rows without noise, so starting from it would break the privacy guarantee"
)


def untrained_labels(keys: Iterable[Key]) -> dict[Key, Label]:
    """Return the labels of tensors that have not been trained yet."""
    return dict.fromkeys(keys, Label.PUBLIC)


def labels_after(
    before: Mapping[Key, Label], moved: Iterable[Key], private: bool, released: Iterable[Key] = ()
) -> dict[Key, Label]:
    """
    Return the labels after training changed the ``moved`` tensors. Tensors that were trained without differential privacy
    stay local-only for good; those of ``private`` training remain usable; ``released`` are those that left with noise.
    """
    moves = dict.fromkeys(moved, Label.MECHANISM if private else Label.LOCAL)
    return {**before, **moves, **dict.fromkeys(released, Label.RELEASED)}


def combined_labels(labels_of_silos: Iterable[Mapping[Key, Label]]) -> dict[Key, Label]:
    """Return the labels of tensors that are averaged over several silos: for each tensor its least protected label."""
    order, combined = list(Label), dict[Key, Label]()
    for labels in labels_of_silos:
        combined |= {
            key: max(label, combined.get(key, label), key=order.index) for key, label in labels.items()
        }
    return combined


def local_only_names(labels: Mapping[Key, Label]) -> list[Key]:
    """Return the tensors from which no private training may start."""
    return sorted(key for key, label in labels.items() if label is Label.LOCAL)


def labels_by_tensor(labels: Labels, roles: Mapping[str, Role]) -> dict[str, Label]:
    """Return the known labels of these tensors; earlier versions kept labels by role."""
    known = {name: labels.get(name, labels.get(role)) for name, role in roles.items()}
    return {name: label for name, label in known.items() if label is not None}


def check_provenance(labels: Labels, names: Iterable[str], silo: str) -> None:
    """Raise Refused if a local tensor is local-only or has no label, because a private round must not start from it."""
    for name in names:
        if name not in labels:
            raise Refused(
                f"{silo}: {name} has no provenance label, so no private round starts from it; initialise it anew"
            )
    if unprotected := local_only_names({name: labels[name] for name in names}):
        raise Refused(
            f"{silo}: {unprotected[0]} is {Label.LOCAL}: {WHY_REFUSED}; initialise it anew, or train without [privacy]"
        )
