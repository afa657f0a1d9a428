"""
Weights of silos in the server's mean, learned from how far their updates agree with those of silos whose labels are trusted.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fedtl.messages import Update
from fedtl.models.state import State, weighted_mean

FIRST = 0.5  # the weight of a silo before its first update


def source_weights(
    updates: Sequence[Update],
    before: Mapping[str, float],
    trusted: Collection[str],
    pace: float,
    names: Collection[str],
) -> dict[str, float]:
    """
    Return the weight a_k of each silo after one more round: SOSELETO (Litany and Freedman, 2018) with silos in place of rows.

    With d_k the update of silo k and t the mean update of the trusted ones, which stands for the negative gradient of their loss,
    that loss falls with a_k at the rate <t, d_k>. So a_k moves by pace cos(t, d_k), from 1/2, and stays within 0 and 1; a trusted
    silo has 1. ``names``: the tensors that are compared. Where no trusted silo answered, the weights stay.
    """
    after = dict(before)
    own = [update for update in updates if update.silo in trusted]
    if own:
        target = weighted_mean((update.weight, _only(update.delta, names)) for update in own)
        for update in updates:
            old = before.get(update.silo, FIRST)
            after[update.silo] = min(1.0, max(0.0, old + pace * _cosine(target, update.delta)))
    return after | {update.silo: 1.0 for update in own}


def weighed(updates: Iterable[Update], weights: Mapping[str, float]) -> list[Update]:
    """Return the updates that count, each with its weight times that of its silo."""
    counted = [replace(update, weight=update.weight * weights.get(update.silo, FIRST)) for update in updates]
    return [update for update in counted if update.weight > 0]


def _only(state: State, names: Collection[str]) -> State:
    return {name: tensor for name, tensor in state.items() if name in names}


def _cosine(one: State, other: State) -> float:
    """Return the cosine of two states over the tensors of the first; 0 where one of them is 0."""

    def product(a: State, b: State) -> float:
        return sum(float(_double(a[name]) @ _double(b[name])) for name in sorted(one))

    lengths = (product(one, one) * product(other, other)) ** 0.5
    return product(one, other) / lengths if lengths > 0 else 0.0


def _double(tensor: Tensor) -> Tensor:
    return tensor.double().flatten()
