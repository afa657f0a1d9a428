"""Which tensors belong to which stage of the body, and so stay at home, do not move, or move at another rate."""

from dataclasses import replace

from torch import nn

from fedtl.methods.base import Method
from fedtl.models.net import stage_tensors, stages
from fedtl.training.config import TrainingConfig


def frozen_parameters(body: nn.Module, first: int) -> frozenset[str]:
    """Return the names in the net of the parameters of the ``first`` stages."""
    return frozenset(f"body.{name}" for stage in stages(body)[:first] for name in stage)


def staged(training: TrainingConfig, body: nn.Module) -> TrainingConfig:
    """Return the settings with each parameter's depth: how far its stage is below the head, 1 for the last stage."""
    by_stage = stages(body)
    depths = {
        f"body.{name}": len(by_stage) - number for number, stage in enumerate(by_stage) for name in stage
    }
    return replace(training, depths=depths)


def kept_by_cut(method: Method, body: nn.Module) -> frozenset[str]:
    """Return the names in the net of the body's tensors that stay at home because of the method's cut."""
    if method.cut is None:
        return frozenset()
    return frozenset(f"body.{name}" for stage in stage_tensors(body)[method.cut :] for name in stage)
