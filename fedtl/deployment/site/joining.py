"""Whether joining helped this site: the model of the study against one that the site trained alone, on the site's own test rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.data.labels import has_label
from fedtl.data.prepare import EvaluationSet
from fedtl.experiment.scores import gain_in
from fedtl.experiment.study import Study
from fedtl.experiment.uncertainty import measure
from fedtl.experiment.verdicts import gain_of
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.report.bounds import bounded_gain
from fedtl.results.comparison import Gain
from fedtl.tasks.base import LearningTask
from fedtl.tasks.row_metrics import NO_ROWS, Answers
from fedtl.training import metrics
from fedtl.training.at_home import Watch, alone_trainer, own_model
from fedtl.training.finish import Examine, Outcome
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Joining:
    """
    The ``gain`` in ``metric`` over training alone; above zero is better. It stays at the site; its verdict leaves where policy and plan
    allow it.
    """

    metric: str
    gain: Gain

    def __str__(self) -> str:
        low, high = bounded_gain(self.metric, self.gain.ci95 or (float("nan"), float("nan")))
        sure = (
            f"95 % interval {low:+.3f} to {high:+.3f}"
            if self.gain.ci95
            else "too few test rows for an interval"
        )
        return f"{self.metric} {self.gain.mean:+.3f} over training alone ({sure}): {self.gain.verdict}"


@dataclass
class OwnModelOnce:
    """Trains the site's own model the first time that it is needed, and not again. ``watch``: as in ``own_model``."""

    watch: Watch | None = None
    state: State | None = None

    def __call__(self, trainer: Trainer, silo: Silo, task: Task) -> State:
        if self.state is None:
            self.state = own_model(trainer, silo, task, self.watch)
        return self.state


def joining_of(
    study: Study, silo: Silo, examine: Examine, alone: OwnModelOnce, outcome: Outcome
) -> Joining | None:
    """
    Compare the final model of a site that trained in the study, whose ``outcome`` on the test rows is given, with its own model, which
    ``alone`` trains on the same training rows. None where the metric is not defined for one of them.
    """
    trainer, rows = study.trainer, examine.evaluation_set(silo.name)
    own = alone(trainer, silo, examine.task)
    scores = alone_trainer(trainer).scores(own, rows.test.x, silo.data)
    metric, margin = study.experiment.metric, study.experiment.compare.margin
    return joining_gain(metric, margin, silo.data.task, outcome.scores, scores, rows, silo.name)


def joining_gain(
    metric: str,
    margin: float,
    task: LearningTask,
    together: Tensor,
    alone: Tensor,
    rows: EvaluationSet,
    site: str,
) -> Joining | None:
    """
    Compare the scores [N, width] of two models, row by row. ``margin``: up to which difference they are as good, in standard deviations
    of the labels for "rmse". None where the metric is not defined for one of them.
    """
    known = has_label(rows.test)
    y, ids = rows.test.y[known], rows.ids[known].numpy()
    units = NO_ROWS.copy() if rows.units is None else rows.units[known].numpy()
    scores = [one[known].double().cpu() for one in (together, alone)]
    if any(metric not in metrics.measure(one, y, task).figures for one in scores):
        return None
    first, second = (
        measure(metric, [Answers(one.numpy(), y.numpy(), ids, units, task=task)], site) for one in scores
    )
    difference = gain_in(metric, first.minus(second), torch.equal(scores[0], scores[1]))
    spread = float(y.double().std(correction=0)) if metric == "rmse" else 1.0
    return Joining(metric, gain_of(difference, margin * spread))
