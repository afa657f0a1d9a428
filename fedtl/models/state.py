"""Arithmetic on states. A state is every tensor of a model, or a part of it, by name."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fedtl.errors import PartitionError

State = dict[str, Tensor]


def check_same_names(found: State, wanted: State) -> None:
    """Raise PartitionError unless both states hold the same names."""
    if found.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise PartitionError(f"the state lacks {missing} and has {extra} too much")


def copy_state(state: State) -> State:
    """Detached copies on the CPU: what was copied has left the model, and has its names in order."""
    return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in sorted(state)}


def difference(a: State, b: State) -> State:
    check_same_names(a, b)
    return {name: a[name] - b[name] for name in sorted(a)}


def add_scaled(a: State, direction: State, size: float = 1.0) -> State:
    """``a + size * direction``, tensor by tensor."""
    check_same_names(direction, a)
    return {name: a[name] + size * direction[name] for name in sorted(a)}


def weighted_mean(parts: Iterable[tuple[float, State]]) -> State:
    """
    The mean of states: sum_i w_i s_i / sum_i w_i (McMahan et al., 2017), summed in float64.

    Each state is added as it comes and then let go. Floating-point addition is not associative, so the order of
    ``parts`` fixes the last bits: callers sort by silo, never by arrival.
    """
    total, sums = 0.0, State()
    kinds: dict[str, torch.dtype] = {}
    for weight, state in parts:
        if not kinds:
            kinds = {name: tensor.dtype for name, tensor in state.items()}
            sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in state.items()}
        check_same_names(state, sums)
        for name, tensor in state.items():
            sums[name].add_(tensor.double(), alpha=weight)
        total += weight
    return {name: tensor.div_(total).to(kinds[name]) for name, tensor in sums.items()}


def size_in_bytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def first_not_finite(state: State) -> str | None:
    """The first name whose tensor holds a NaN or an infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            ends = torch.stack(
                tensor.aminmax()
            )  # NaN goes through; one pass, where isfinite().all() takes several
            if not ends.isfinite().all():
                return name
    return None


# Old names, until all callers are merged.
copy = copy_state
step = add_scaled
not_finite = first_not_finite
same_names = check_same_names
