"""Initial values of slots and their values after a round, as several methods need them."""

from collections.abc import Mapping

import torch

from fedtl.methods.sets import MODEL
from fedtl.methods.slot import FinishedRound
from fedtl.models.roles import Role
from fedtl.models.state import State

WEIGHTS = frozenset({Role.BODY, Role.HEAD, Role.AUX, Role.NORM, Role.ADAPTER})


def first_model(model: State, roles: Mapping[str, Role]) -> State:
    """Return a copy of the model's initial tensors."""
    return {name: tensor.clone() for name, tensor in model.items()}


def zeros(model: State, roles: Mapping[str, Role]) -> State:
    """Return a zero for each weight of the model; statistics and counts are not weights."""
    return {name: torch.zeros_like(tensor) for name, tensor in model.items() if roles[name] in WEIGHTS}


def trained_model(ended: FinishedRound) -> State:
    """Return the model as the round left it."""
    return dict(ended.after[MODEL])


def first_reach(model: State, roles: Mapping[str, Role]) -> State:
    """Return an infinite reach for each weight, so that a silo which has not trained yet starts from what it receives."""
    return {name: torch.tensor(torch.inf) for name, role in roles.items() if role in WEIGHTS}


def last_reach(ended: FinishedRound) -> State:
    """Return the reach of the round for each weight of the model (``FinishedRound.reach``)."""
    return {name: torch.tensor(ended.reach.get(name, 0.0)) for name in ended.before["reach"]}
