"""The metrics that a silo reports of the model that it received, before training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.training import private
from fedtl.training.at_home import used_model
from fedtl.training.evaluate import fits_statistics
from fedtl.training.metrics import quick
from fedtl.training.silo import Silo

if TYPE_CHECKING:
    from fedtl.training.trainer import Trainer


def received_metrics(trainer: "Trainer", silo: Silo, task: Task, state: State) -> Mapping[str, float]:
    """
    Return the metrics, on validation rows, of the model that the silo would use if training had just ended; of a
    private silo what its guarantee releases, with noise.
    """
    val = silo.data.val
    if silo.guarantee is not None:
        if silo.guarantee.releases.accuracy is None:
            return {}
        return private.noisy_accuracy(trainer.scores(state, val.x, silo.data), silo, task.round)
    if not len(val):
        return {}
    model = used_model(trainer, silo, task, state)
    own = fits_statistics(trainer.method, trainer.partition, model, task.shared)
    if own or trainer.method.pool:  # a pooled run has all rows
        model = trainer.adapt(model, silo.data.inputs, silo.data.width)
    return quick(trainer.scores(model, val.x, silo.data), val.y, silo.data.task)
