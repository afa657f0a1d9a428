"""Arithmetic on states. A state maps names to tensors: those of a whole model, or of a part of it."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fedtl.errors import PartitionError

State = dict[str, Tensor]
NORM_BLOCK = 1 << 16
BLOCK_NORMS = (1e-12, 1e12)  # between them no square of a value that counts leaves the range of float32


def check_same_names(state: State, expected: State) -> None:
    """Raise PartitionError unless both states have the same names."""
    if state.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        raise PartitionError(f"the names of two states differ: missing {missing}, unexpected {extra}")


def copy_state(state: State) -> State:
    """
    Return detached copies on the CPU, sorted by name, in the default layout: a weight of one input channel also counts as
    contiguous in channels_last, and its layout decides by which kernel, and so to which bits, a convolution computes.
    """
    default = torch.contiguous_format
    return {name: state[name].detach().cpu().clone(memory_format=default) for name in sorted(state)}


def difference(a: State, b: State) -> State:
    """Return ``a - b``, tensor by tensor."""
    check_same_names(a, b)
    return {name: a[name] - b[name] for name in sorted(a)}


def add_scaled(a: State, direction: State, size: float = 1.0) -> State:
    """Return ``a + size * direction``, tensor by tensor."""
    check_same_names(direction, a)
    return {name: a[name] + size * direction[name] for name in sorted(a)}


def weighted_mean(parts: Iterable[tuple[float, State]]) -> State:
    """
    Return the weighted mean of states, sum_i w_i s_i / sum_i w_i (McMahan et al., 2017), summed in float64.

    ``parts``: pairs (w_i, s_i); only one state at a time is kept in memory. Floating-point addition is not associative,
    so the order of ``parts`` decides the last bits: callers sort by silo name, never by arrival.
    """
    total, sums = 0.0, State()
    dtypes: dict[str, torch.dtype] = {}
    for weight, state in parts:
        if not dtypes:
            dtypes = {name: tensor.dtype for name, tensor in state.items()}
            sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in state.items()}
        check_same_names(state, sums)
        for name, tensor in state.items():
            sums[name].add_(tensor, alpha=weight)  # computed in float64, without a copy in it
        total += weight
    return {name: tensor.div_(total).to(dtypes[name]) for name, tensor in sums.items()}


def size_in_bytes(state: State) -> int:
    """Return the number of bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def euclidean_norm(state: State) -> float:
    """Return the Euclidean norm over the values of all tensors, summed in float64, or in blocks where a tensor is large."""
    return math.hypot(*(_norm(tensor) for tensor in state.values()))


def _norm(tensor: Tensor) -> float:
    """A large tensor's norm comes from float32 norms of blocks: exact to about 1e-6, and four times as fast as a sum in float64."""
    if tensor.dtype == torch.float32 and tensor.numel() >= NORM_BLOCK:
        flat = tensor.reshape(-1)
        whole = flat.numel() // NORM_BLOCK * NORM_BLOCK
        blocks = torch.linalg.vector_norm(flat[:whole].view(-1, NORM_BLOCK), dim=1)
        found = torch.cat([blocks, torch.linalg.vector_norm(flat[whole:]).reshape(1)]).double()
        norm = float(torch.linalg.vector_norm(found))
        if BLOCK_NORMS[0] < norm < BLOCK_NORMS[1]:
            return norm
    numbers = tensor if tensor.is_floating_point() else tensor.double()
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64))


def first_not_finite(state: State) -> str | None:
    """Return the first name whose tensor holds a NaN or an infinity; None if all are finite."""
    numbers = {
        name: tensor for name, tensor in state.items() if tensor.is_floating_point() and tensor.numel()
    }
    # A sum is finite only if all of its terms are; it may also overflow, which the second look finds out.
    sums = [tensor.sum(dtype=torch.float32) for tensor in numbers.values()]
    if not sums or torch.stack(sums).isfinite().all():
        return None
    for name, tensor in numbers.items():
        # aminmax passes a NaN on, and reads the tensor once, where isfinite().all() reads it several times.
        if not torch.stack(tensor.aminmax()).isfinite().all():
            return name
    return None
