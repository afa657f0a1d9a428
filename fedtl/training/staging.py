"""Which tensors belong to which stage of the body, and so stay at home or do not move."""

from torch import nn

from fedtl.methods.base import Method
from fedtl.models.net import stage_tensors, stages


def frozen_parameters(body: nn.Module, first: int) -> frozenset[str]:
    """Return the names in the net of the parameters of the ``first`` stages."""
    return frozenset(f"body.{name}" for stage in stages(body)[:first] for name in stage)


def kept_by_cut(method: Method, body: nn.Module) -> frozenset[str]:
    """Return the names in the net of the body's tensors that stay at home because of the method's cut."""
    if method.cut is None:
        return frozenset()
    return frozenset(f"body.{name}" for stage in stage_tensors(body)[method.cut :] for name in stage)
