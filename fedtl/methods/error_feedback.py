"""A method whose silos send compressed updates and keep what compression left out."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from fedtl.methods.base import Method
from fedtl.methods.sets import RESIDUAL
from fedtl.methods.slot import Slot
from fedtl.methods.wire import EXACT, Wire
from fedtl.models.roles import Role
from fedtl.models.state import State


def with_wire(method: Method, wire: Wire) -> Method:
    """
    Return the method that sends its weights as ``wire`` says, with error feedback (``methods.wire``): each silo keeps a slot
    with the residual of each weight that it sends. Statistics, summaries and other slots are sent in full. A method that
    sends no weights, such as training alone, is returned as it is.

    Raises ValueError for a method whose silos pick one of several models: what a silo did not pick must change by exactly 0.
    """
    compressed = method.shared - EXACT
    if not wire.compresses or method.pool or not compressed:
        return method
    if any(phase.pick for phase in method.phases):
        raise ValueError(
            "its silos each pick one of several models, and a residual would move those not picked"
        )

    def first(model: State, roles: Mapping[str, Role]) -> State:
        sent = (name for name, tensor in model.items() if tensor.is_floating_point())
        return {name: torch.zeros_like(model[name]) for name in sent if roles[name] in compressed}

    return replace(method, wire=wire, slots=(*method.slots, Slot(RESIDUAL, first)))
