"""
Which tensor of a model is what, and which of them leave a silo.

A role is a fact about the model, read once from its modules. What a method shares is a set of roles: FedAvg,
FedBN, FedPer and SiloBN differ in that set and in nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from fedtl.errors import PartitionError
from fedtl.models.norms import is_norm
from fedtl.models.state import State, copy


class Role(StrEnum):
    """What a tensor is."""

    BODY = "body"
    HEAD = "head"
    AUX = "aux"  # what an objective adds to the model, such as a domain discriminator
    NORM = "norm"  # scale and shift of a normalisation, wherever it stands
    STATS = "stats"  # running mean and variance of a normalisation
    COUNT = "count"  # integers: they count this silo's batches, cannot be averaged and are never shared
    EXTRA = "extra"  # beside the model: a tensor of a slot that the method keeps
    SUMMARY = "summary"  # beside the model: a mean over a silo's rows


EVERYTHING = frozenset(Role) - {
    Role.COUNT,
    Role.EXTRA,
    Role.SUMMARY,
}  # of a model, as far as it can be shared


def roles(model: nn.Module) -> dict[str, Role]:
    """
    The role of every name in ``model.state_dict()``.

    ``model`` has its parts at the top: ``body``, ``head``, ``aux`` (models.Net). Within them the type of the
    module that owns a tensor decides.
    """
    found: dict[str, Role] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        norm = is_norm(module)
        for name, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            found[prefix + name] = Role.NORM if norm else _place(path)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if not buffer.is_floating_point():
                found[prefix + name] = Role.COUNT
            elif norm:
                found[prefix + name] = Role.STATS if name.startswith("running_") else Role.NORM
            else:
                found[prefix + name] = _place(path)
    return {name: found[name] for name in model.state_dict(keep_vars=True)}


def _place(path: str) -> Role:
    top = path.split(".", 1)[0]
    return Role(top) if top in (Role.HEAD, Role.AUX) else Role.BODY


@dataclass(frozen=True)
class Partition:
    """
    A state cut in two: what the server may see and what stays where it is. ``crossing``: the names of tensors beside the
    model that are shared; their roles do not say it.
    """

    roles: Mapping[str, Role]
    shared: frozenset[Role]
    crossing: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if Role.COUNT in self.shared:
            raise PartitionError("integer counters cannot be averaged, so they cannot be shared")

    def leaves(self, name: str) -> bool:
        return self.roles[name] in self.shared or name in self.crossing

    def names(self, role: Role) -> Iterable[str]:
        return (name for name, its in self.roles.items() if its is role)

    def split(self, state: State) -> tuple[State, State]:
        """(shared, local), as copies on the CPU: what is split has left the model."""
        shared, local = self.cut(state)
        return copy(shared), copy(local)

    def cut(self, state: State) -> tuple[State, State]:
        """(shared, local), the state's own tensors: still the model's, where they are its."""
        self._check(state)
        shared = {name: tensor for name, tensor in state.items() if self.leaves(name)}
        return shared, {name: tensor for name, tensor in state.items() if name not in shared}

    def join(self, shared: State, local: State) -> State:
        """Undoes ``split``."""
        if both := shared.keys() & local.keys():
            raise PartitionError(f"{sorted(both)} stand in the shared and in the local part")
        joined = shared | local
        self._check(joined)
        return joined

    def _check(self, state: State) -> None:
        if state.keys() != self.roles.keys():
            raise PartitionError(f"not this model's names: {sorted(state.keys() ^ self.roles.keys())}")
