"""What a silo keeps from one round to the next in addition to its model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedtl.methods.sets import Sets
from fedtl.models.roles import Role
from fedtl.models.state import State


@dataclass(frozen=True)
class FinishedRound:
    """
    A finished round of local training: all sets ``before`` and ``after`` it. ``reach``: for each parameter of the model,
    how far a constant gradient of 1 would have moved it: the learning rate times the number of steps, and what momentum
    adds.
    """

    before: Sets
    after: Sets
    reach: Mapping[str, float]


@dataclass(frozen=True)
class Slot:
    """
    A further set of tensors that a silo keeps: a second model, a control variate, a mask.

    ``first`` makes it from the model's initial tensors and their roles. ``crosses``: its change is part of every update,
    and its mean over silos part of every task; otherwise it never leaves. ``after``: what it becomes when a round ends;
    None: what the phases made of it. ``shares``: its entries are shares from 0 to 1; a step that would move one further leaves it
    there (projected gradient), so that the next step can move it back.
    """

    name: str
    first: Callable[[State, Mapping[str, Role]], State]
    crosses: bool = False
    after: Callable[[FinishedRound], State] | None = None
    shares: bool = False
