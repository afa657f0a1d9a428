"""The net of a stack: one module whose tensors hold those of several silos."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from fedtl.models.net import Net
from fedtl.models.state import State
from fedtl.simulation.masked_norm import MaskedNorm
from fedtl.simulation.stackable import NORMS

STACK = "stack"


@torch.no_grad()
def stack_of(net: Net, states: Sequence[State]) -> Net:
    """
    Return a copy of the net in which every tensor holds those of all K silos, [K, ...], and norms can leave out rows. The net keeps the copy
    for the next round, and with it the steps that were recorded of it; a stack of another number of silos is dropped. Raises ValueError for a
    tensor of another shape.
    """
    kind, device = (STACK, len(states)), next(net.parameters()).device
    if kind not in net.kept:
        drop_stacks(net)
        net.kept[kind] = _empty_stack(net, len(states))
    stack: Net = net.kept[kind]
    for name, tensor in stack.state_dict().items():
        first = states[0][name]
        if first.shape != tensor.shape[1:]:
            raise ValueError(f"{name}: {tuple(first.shape)} in place of {tuple(tensor.shape[1:])}")
        if all(state[name] is first for state in states):  # what all received is copied to the device once
            tensor.copy_(first.to(device).expand_as(tensor))
        else:
            tensor.copy_(torch.stack([state[name] for state in states]))
    return stack


def drop_stacks(net: Net) -> None:
    """Free the stacks that the net keeps."""
    for kind in [kind for kind in net.kept if isinstance(kind, tuple) and kind[0] == STACK]:
        del net.kept[kind]


def _empty_stack(net: Net, count: int) -> Net:
    """Return a stack for ``count`` silos, whose tensors hold no values yet."""
    stack = deepcopy(net)
    for path, module in net.named_modules():
        if isinstance(module, NORMS):
            stack.set_submodule(path, MaskedNorm(module))
    for name, tensor in net.state_dict().items():
        path, _, leaf = name.rpartition(".")
        owner = stack.get_submodule(path)
        many = tensor.new_empty(count, *tensor.shape)
        setattr(owner, leaf, nn.Parameter(many) if leaf in owner._parameters else many)
    return stack
