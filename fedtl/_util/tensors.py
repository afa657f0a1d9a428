"""A tensor as its plain bytes (little-endian, row-major), and back without unpickling anything."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48  # zero sizes counted as 1: torch raises RuntimeError for sizes whose product overflows


def to_raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes: its own memory where it is contiguous and on the CPU, a copy otherwise."""
    if not tensor.numel():  # its strides are arbitrary, and a view of other bytes may refuse them
        return memoryview(b"")
    plain: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(plain)


def from_raw(buffer: Any, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """
    A tensor over the memory of ``buffer``. Raises ValueError where the shape does not fit the number of bytes, so the
    tensor never takes more memory than the buffer has.
    """
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise ValueError(f"not the shape of a tensor: {list(shape[:MAX_DIMENSIONS])}")
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise ValueError(f"a shape of more than {MAX_ELEMENTS} elements: {list(shape)}")
    length = memoryview(buffer).nbytes
    if math.prod(shape) * dtype.itemsize != length:
        raise ValueError(f"{length} bytes are not a tensor of shape {list(shape)} and type {dtype}")
    return (
        torch.frombuffer(buffer, dtype=dtype).reshape(tuple(shape))
        if length
        else torch.empty(tuple(shape), dtype=dtype)
    )
