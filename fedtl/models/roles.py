"""
The role of each tensor of a model, and which tensors leave a silo.

A role is a fact about the model, read from its modules. What a method shares is a set of roles: FedAvg, FedBN, FedPer and
SiloBN differ only in that set.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from fedtl.errors import ConfigError, ModelError, PartitionError
from fedtl.models.adapters import trained_by_adapters
from fedtl.models.norms import is_norm
from fedtl.models.state import State, copy_state


class Role(StrEnum):
    """What a tensor is."""

    BODY = "body"  # the backbone: from the inputs to the features
    HEAD = "head"  # from the features to the scores
    ADAPTER = "adapter"  # a small module that is added to a layer of a frozen body
    AUX = "aux"  # what a loss term adds to the model, such as a domain discriminator
    NORM = "norm"  # scale and shift of a normalisation layer, in the body, the head or elsewhere
    STATS = "stats"  # running mean and variance of a normalisation layer
    COUNT = "count"  # integers: they count the silo's batches, cannot be averaged and are never shared
    EXTRA = "extra"  # in addition to the model: a tensor of a slot that the method keeps
    SUMMARY = "summary"  # in addition to the model: a mean over a silo's rows


EVERYTHING = frozenset(Role) - {
    Role.COUNT,
    Role.EXTRA,
    Role.SUMMARY,
}  # all roles that can be shared


def check_roles(shared: object) -> None:
    """Raise ConfigError for what is not a set of a model's roles."""
    if not isinstance(shared, Set) or not all(isinstance(role, Role) for role in shared):
        raise ConfigError(
            f"shared = {shared!r:.60} is not a set of roles; pass one, such as frozenset({{fedtl.Role.BODY}})"
        )
    if shared & {Role.EXTRA, Role.SUMMARY}:
        raise ConfigError("shared holds roles of the model only; a slot leaves where it says crosses = True")


def roles(model: nn.Module) -> dict[str, Role]:
    """
    Return the role of every name in ``model.state_dict()``.

    ``model`` has the children ``body``, ``head`` and ``aux`` (``models.net.Net``). Within them the type of the module that
    owns a tensor decides which are of a norm, never the module's name; of a norm's buffers, ``running_*`` are statistics, and of any
    module those that training changes by its inputs (``Net.statistics``). Raises ModelError for what is not a module.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"roles reads a torch.nn.Module, such as create_model returns, not {type(model).__name__}"
        )
    by_name: dict[str, Role] = {}
    statistics: frozenset[str] = getattr(model, "statistics", frozenset())
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        own = {name for name, _ in module.named_buffers(recurse=False) if prefix + name in statistics}
        norm = is_norm(module) or _normalises(module, own)
        for name, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            by_name[prefix + name] = Role.NORM if norm else _part(path)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if not buffer.is_floating_point():
                by_name[prefix + name] = Role.COUNT
            elif name in own:
                by_name[prefix + name] = Role.STATS
            elif norm:
                by_name[prefix + name] = Role.STATS if name.startswith("running_") else Role.NORM
            else:
                by_name[prefix + name] = _part(path)
    by_name |= {name: Role.ADAPTER for name in trained_by_adapters(model) if by_name[name] is Role.BODY}
    return {name: by_name[name] for name in model.state_dict(keep_vars=True)}


def _normalises(module: nn.Module, statistics: Set[str]) -> bool:
    """Return whether a layer has, apart from these statistics, only scales and shifts of the same channels."""
    sizes = {module.get_buffer(name).numel() for name in statistics}
    parameters = [parameter.numel() for parameter in module.parameters(recurse=False)]
    return len(sizes) == 1 and not [*module.children()] and sizes.issuperset(parameters)


def _part(path: str) -> Role:
    top = path.split(".", 1)[0]
    return Role(top) if top in (Role.HEAD, Role.AUX) else Role.BODY


@dataclass(frozen=True)
class Partition:
    """
    A state's tensors in two parts: those with ``shared`` roles, which leave the silo, and the local ones. ``crossing``: the
    names of slots and summaries that leave, whatever ``shared`` says. ``kept``: the names of those
    that stay in spite of their roles, because a cut divides the body, or because it is frozen and every silo has it.
    """

    roles: Mapping[str, Role]
    shared: frozenset[Role]
    crossing: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if Role.COUNT in self.shared:
            raise PartitionError("integer counters cannot be averaged, so they cannot be shared")

    def leaves(self, name: str) -> bool:
        return (self.roles[name] in self.shared and name not in self.kept) or name in self.crossing

    def names(self, role: Role) -> Iterable[str]:
        return (name for name, own_role in self.roles.items() if own_role is role)

    def split(self, state: State) -> tuple[State, State]:
        """Return (shared, local) as copies on the CPU."""
        shared, local = self.cut(state)
        return copy_state(shared), copy_state(local)

    def cut(self, state: State) -> tuple[State, State]:
        """Return (shared, local) without copying any tensor."""
        self._check(state)
        shared = {name: tensor for name, tensor in state.items() if self.leaves(name)}
        return shared, {name: tensor for name, tensor in state.items() if name not in shared}

    def join(self, shared: State, local: State) -> State:
        """Return the whole state; undoes ``split``. Raises PartitionError."""
        if both := shared.keys() & local.keys():
            raise PartitionError(f"{sorted(both)} are in both the shared and the local part")
        joined = shared | local
        self._check(joined)
        return joined

    def _check(self, state: State) -> None:
        if state.keys() != self.roles.keys():
            names = sorted(state.keys() ^ self.roles.keys())
            raise PartitionError(f"the state does not have exactly the model's names: {names} differ")
