"""How alike are two models, stage by stage, on a silo's own rows, and how much do their features say about its labels?"""

from collections.abc import Sequence
from math import isfinite, prod

import torch
from torch import Tensor

from fedtl._util.labels import is_known
from fedtl.data.dataset import SiloDataset
from fedtl.methods.measures.cka import linear_cka
from fedtl.methods.measures.hscore import h_score
from fedtl.methods.measures.logme import logme
from fedtl.methods.sets import model_part
from fedtl.models import precision
from fedtl.models.net import Net, stage_modules
from fedtl.models.state import State
from fedtl.results.transferability import StageMeasures
from fedtl.training.batches import ROWS_AT_ONCE, to_inputs
from fedtl.training.forward import outputs_of
from fedtl.training.nets import Use
from fedtl.training.trainer import Trainer

MAX_ROWS = 512  # CKA compares all pairs of rows
MAX_NUMBERS = 1 << 26  # of one stage's output on all rows


def stage_names(trainer: Trainer) -> list[str]:
    """Return the path in the body of the module that gives the output of each stage."""
    return [stage[-1] for stage in stage_modules(trainer.spec.body)] or [""]


def stage_measures(
    trainer: Trainer, data: SiloDataset, others: State, own: State, new: State
) -> tuple[StageMeasures, ...]:
    """
    Return the measures of each stage on the silo's first training rows (at most MAX_ROWS). ``others``, ``own`` and ``new``: whole
    models. Nothing but these numbers leaves: CKA is computed where the rows, the shared model and the silo's own model are.
    """
    x, y = data.train.x[:MAX_ROWS], data.train.y[:MAX_ROWS]
    known = is_known(y)
    measures = []
    by_model = (stage_outputs(trainer, state, x, data.width) for state in (others, own, new))
    for other, mine, fresh in zip(*by_model, strict=True):
        labelled = known[: len(other)]
        features, labels = _pooled(other)[labelled], y[: len(other)][labelled]
        score = float("nan") if y.is_floating_point() else h_score(features, labels)
        values = (linear_cka(other, mine), linear_cka(fresh, mine), logme(features, labels), score)
        measures.append(StageMeasures(*(value if isfinite(value) else None for value in values)))
    return tuple(measures)


@torch.no_grad()
def stage_outputs(trainer: Trainer, state: State, x: Tensor, width: int) -> list[Tensor]:
    """
    Return the output [N, ...] of each stage of the body in evaluation mode, on the CPU: before the activation that follows a
    normalisation layer, as the stages are cut there; features are the second axis. N is that of ``x``, or smaller for large outputs.
    """
    net = trainer.net(width, Use.EVALUATION)
    net.load_state_dict(model_part(state))
    net.eval()
    paths = [f"body.{name}".rstrip(".") for name in stage_names(trainer)]
    rows = min(len(x), _affordable(_run(trainer, net, paths, x[:1])))
    parts = [_run(trainer, net, paths, part) for part in x[:rows].split(ROWS_AT_ONCE)]
    return [torch.cat(chunks) for chunks in zip(*parts, strict=True)]


def _run(trainer: Trainer, net: Net, paths: Sequence[str], x: Tensor) -> list[Tensor]:
    with precision.autocast_for(trainer.dtype, trainer.device), outputs_of(net, paths) as outputs:
        net(to_inputs(x, trainer.device))
    return [outputs[path].float().cpu() for path in paths]


def _affordable(outputs: Sequence[Tensor]) -> int:
    return max(2, MAX_NUMBERS // max(prod(one.shape[1:]) for one in outputs))


def _pooled(output: Tensor) -> Tensor:
    """Return one vector a row: the mean over the positions of an output [N, C, ...]."""
    return output.flatten(2).mean(2) if output.dim() > 2 else output
