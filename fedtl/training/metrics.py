"""
Metrics of a model on rows that it was not trained on, as scikit-learn defines them.

``scores`` are a model's raw outputs [N, width]; in regression in the label's own unit. What is measured follows from the task
(``tasks.base``).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedtl._util.labels import is_known
from fedtl.results.metrics import Measured, WorstSilo
from fedtl.tasks.base import LearningTask
from fedtl.tasks.metrics import better


def measure(scores: Tensor, y: Tensor, task: LearningTask) -> Measured:
    """Return every metric that is defined for these rows, and why the others are not."""
    scores, y = _labelled(scores, y)
    if not len(y):
        return Measured({}, dict.fromkeys(task.measured, "there are no rows"))
    if broken := int((~torch.isfinite(scores)).flatten(1).any(1).sum()):
        return Measured(
            {}, dict.fromkeys(task.measured, f"the scores of {broken} of {len(y)} rows are not finite")
        )
    values = task.figures(scores, y)
    too_large = {name: "too large for a number" for name, value in values.items() if not np.isfinite(value)}
    figures = {name: value for name, value in values.items() if name not in too_large}
    undefined = {name: task.why_undefined(name, scores, y) for name in task.measured if name not in values}
    return Measured(figures, too_large | undefined)


def quick(scores: Tensor, y: Tensor, task: LearningTask) -> dict[str, float]:
    """Return the metrics of each round, computed in torch alone; {} where they are not finite."""
    scores, y = _labelled(scores, y)
    if not len(y) or not torch.isfinite(scores).all():
        return {}
    return {name: value for name, value in task.quick(scores, y).items() if np.isfinite(value)}


def row_losses(scores: Tensor, y: Tensor, task: LearningTask) -> Tensor:
    """Return the loss of each row that has a label [N]."""
    return task.losses(*_labelled(scores, y))


def _labelled(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and labels of the rows that have a label."""
    known = is_known(y)
    return (scores, y) if bool(known.all()) else (scores[known], y[known])


def means(per_silo: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """Return by metric the plain mean over the silos that have it, and how many these are."""
    names = sorted({name for figures in per_silo.values() for name in figures})
    values = {name: [figures[name] for figures in per_silo.values() if name in figures] for name in names}
    return (
        {name: float(np.mean(those)) for name, those in values.items()},
        {name: len(those) for name, those in values.items()},
    )


def worst_of(metric: str, per_silo: Mapping[str, Mapping[str, float]]) -> WorstSilo:
    """Return the silo with the worst value; of several, the first by name. Empty where no silo has the metric."""
    worst = WorstSilo()
    measured = [silo for silo in sorted(per_silo) if metric in per_silo[silo]]
    for silo in measured:
        value = per_silo[silo][metric]
        if not worst.silo or better(metric, worst.figures[metric], value):
            worst = WorstSilo(silo, {metric: value}, len(measured))
    return worst
