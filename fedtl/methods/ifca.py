"""
IFCA: several shared models; each silo trains and uses the one that fits its rows best.

Laws: where all silos pick one model, it is FedAvg from that model's initial weights; a model that no silo picks does not move.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Le

from fedtl._util.randomness import address
from fedtl._util.settings import Fraction
from fedtl.messages import Update
from fedtl.methods.base import Memory, Method, Phase, Pick, Use
from fedtl.methods.sets import MODEL, Sets, set_of
from fedtl.methods.slot import Slot
from fedtl.methods.slots import WEIGHTS
from fedtl.models.roles import Role
from fedtl.models.state import State, add_scaled, weighted_mean


def ifca(clusters: Annotated[int, Ge(2), Le(16)] = 2, at_random: Fraction = 0.1) -> Method:
    """
    Ghosh et al., 2020 (IFCA): k shared models; each silo trains and uses the one with the lowest loss on its rows.

    Silo i picks argmin_j loss_i(w_j), with the mean loss over its training rows. A round averages each model over the silos that picked
    it (their option of model averaging); the k models and all silos' changes cross, k times the bytes of FedAvg, and the pick with them.
    ``at_random``: the share of the rounds, the first ones, in which a silo keeps a model that is drawn for it; without them one model
    often wins all silos.
    """
    names = (MODEL, *(f"model_{number}" for number in range(2, clusters + 1)))

    def no_pick(model: State, roles: Mapping[str, Role]) -> State:
        return {"of": torch.zeros(clusters)}

    def picked(sets: Sets) -> State:
        return sets[names[int(sets["pick"]["of"].argmax())]]

    return Method(
        slots=(*(Slot(name, _other_model(name), crosses=True) for name in names[1:]), Slot("pick", no_pick)),
        phases=(Phase(on=names, pick=Pick("pick", at_random)),),
        finish=(Use(through=picked),),
        server=mean_of_members,
    )


def _other_model(name: str) -> Callable[[State, Mapping[str, Role]], State]:
    """
    Return the function that gives other initial weights: the entries of each matrix of the model in another order. A body
    with adapters is frozen, so it stays as it is.
    """

    def first(model: State, roles: Mapping[str, Role]) -> State:
        moving = WEIGHTS - ({Role.BODY} if Role.ADAPTER in roles.values() else set())
        return {
            key: _shuffled(tensor, f"{name}/{key}") if roles[key] in moving else tensor.clone()
            for key, tensor in model.items()
        }

    return first


def _shuffled(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.dim() < 2:
        return tensor.clone()
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(address("ifca", name)))
    return tensor.flatten()[order].view_as(tensor)


def mean_of_members(
    shared: State, updates: Iterable[Update], roles: Mapping[str, Role], memory: Memory
) -> tuple[State, Memory]:
    """Move each of the shared models by the mean change of the silos that trained it; the changes of the others are 0."""
    updates, moved = list(updates), dict(shared)
    for model in sorted({set_of(name) for name in shared}):
        names = [name for name in shared if set_of(name) == model]
        changes = [(update.weight, {name: update.delta[name] for name in names}) for update in updates]
        members = [(weight, change) for weight, change in changes if any(map(torch.any, change.values()))]
        if members:
            moved |= add_scaled({name: shared[name] for name in names}, weighted_mean(members))
    return {name: moved[name] for name in sorted(moved)}, memory
