"""A silo's model between two others, with exact statistics refitted at each point."""

from typing import TYPE_CHECKING

from torch import Tensor

from fedtl.data.dataset import SiloDataset
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.interpolation import Interpolation, best_between
from fedtl.models.net import stage_tensors
from fedtl.models.state import State, copy_state
from fedtl.results.run import Interpolated
from fedtl.training.metrics import row_losses

if TYPE_CHECKING:
    from fedtl.training.trainer import Trainer

WHOLE, HEAD = "whole", "head"


def interpolated(
    trainer: "Trainer", data: SiloDataset, u: State, v: State, settings: Interpolation
) -> tuple[State, Interpolated]:
    """Return the best model between ``u`` and ``v`` on the silo's validation rows, and the curve."""
    refits = trainer.method.exact_statistics != ExactStatistics.NEVER
    groups = tensor_groups(trainer, v, settings.by_stage)

    def adapted(state: State) -> State:
        return trainer.adapt(state, data.inputs, data.width) if refits else state

    def losses(state: State) -> Tensor:
        return row_losses(trainer.scores(adapted(state), data.val.x, data), data.val.y, data.task)

    best = best_between(u, v, list(groups.values()), settings.by_stage, losses)
    shares = dict(zip(groups, best.shares, strict=True))
    return copy_state(adapted(best.state)), Interpolated(tuple(settings.ends), best.curve, shares)


def tensor_groups(trainer: "Trainer", state: State, by_stage: bool) -> dict[str, frozenset[str]]:
    """Return groups of tensor names, each with one share: one group of all, or one for each stage of the body and one for the rest."""
    if not by_stage:
        return {WHOLE: frozenset(state)}
    groups = {
        f"stage {number}": frozenset(f"body.{name}" for name in stage)
        for number, stage in enumerate(stage_tensors(trainer.spec.body), 1)
    }
    return {**groups, HEAD: frozenset(state).difference(*groups.values())}
