"""
A recorded step on a GPU as a CUDA graph: one call starts all of its kernels. For small models, launching a kernel takes several
times as long as the kernel itself.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Of a GPU's memory, the most that the gradients of one graph may take. Each shape of a batch has a graph, which keeps its gradients.
MAX_SHARE_OF_GRADIENTS = 0.01
MAX_SHARE_IN_USE = 0.25  # of a GPU's memory, the most that tensors took so far: making a graph takes the memory of two steps more
Step = Callable[[Sequence[Tensor]], Sequence[Tensor | None]]  # from a batch's tensors to gradients


class Graph:
    """
    The kernels of ``step`` for batches of the shapes of ``inputs``. They read and write tensors where these were when the graph was
    made, so it is of no use once the net's tensors lie elsewhere. The gradients of a call are overwritten by the next one.

    Making it takes two steps, one of which changes the net's buffers. Raises RuntimeError where a kernel cannot be part of a graph.
    """

    def __init__(self, step: Step, inputs: Sequence[Tensor]) -> None:
        self._step = step  # its constants are read where they lie, so they must stay
        self._inputs = [one.clone() for one in inputs]
        self._graph = torch.cuda.CUDAGraph()
        capture_stream = _stream()
        capture_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(capture_stream):
            step(self._inputs)  # libraries take their memory in the first call on a stream
        torch.cuda.current_stream().wait_stream(capture_stream)
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # torch does not return to it after an error
            torch.cuda.graph(self._graph, _memory(), capture_stream, capture_error_mode="thread_local"),
        ):
            self._gradients = step(self._inputs)

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Return the gradients of a batch, and change the net's buffers, as the step does."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._gradients


def fits_gpu(weights: Sequence[Tensor]) -> bool:
    """Return whether a GPU has room for graphs that keep gradients of these weights; the kernels of a larger net take long anyway."""
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    device = weights[0].device
    total = torch.cuda.get_device_properties(device).total_memory
    return (
        size <= MAX_SHARE_OF_GRADIENTS * total
        and torch.cuda.max_memory_allocated(device) <= MAX_SHARE_IN_USE * total
    )


@cache
def _stream() -> torch.cuda.Stream:
    """Return the stream on which all graphs are made: memory that one stream took is of no use to another."""
    return torch.cuda.Stream()


@cache
def _memory() -> Any:
    """Return the memory in which all graphs of the process compute: no two run at once, and none needs what another left there."""
    return torch.cuda.graph_pool_handle()
