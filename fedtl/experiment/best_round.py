"""
The round with the lowest loss on the silos' validation rows, and where training stops because no later round is better
(``train.patience``). Test rows are not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from fedtl.data.labels import has_label
from fedtl.errors import ConfigError, SiloFailed
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.privacy.taint import Labels
from fedtl.simulation.engine import Engine
from fedtl.training.received import received_metrics
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class BestRound:
    """
    The best round so far: its number, the mean ``loss`` over the silos, the shared tensors after it, and by silo what each kept:
    its local tensors, which no later round changes in place, and their provenance labels.
    """

    round: int
    loss: float
    shared: State
    local: Mapping[str, State]
    labels: Mapping[str, Labels]

    def stops(self, round: int, patience: int) -> bool:
        """Return whether training stops after a round: the last ``patience`` rounds were not better than the best one."""
        return round - self.round >= patience

    def restore(self, silos: Mapping[str, Silo]) -> None:
        """Give each silo what it had after the best round."""
        for name, silo in silos.items():
            silo.local, silo.labels = self.local[name], self.labels[name]


@dataclass(frozen=True)
class ValidationLoss:
    """
    The job that returns the loss on the silo's validation rows of the model that it would use if training had just ended; in
    regression divided by the variance of the silo's training labels. None where no such row has a label.
    """

    task: Task

    def __call__(self, trainer: Trainer, silo: Silo) -> float | None:
        data = silo.data
        if not has_label(data.val).any():
            return None
        state = trainer.partition.join(self.task.shared, silo.local)
        return received_metrics(trainer, silo, self.task, state).get("loss", inf) / data.loss_unit


def better_round(
    best: BestRound | None, engine: Engine, silos: Mapping[str, Silo], task: Task, round: int
) -> tuple[BestRound, float | None]:
    """
    Return the best round, which is ``round``, the one just done, if its loss is lower than that of ``best``, and this loss: the plain mean
    over the silos; None where it is not finite. ``task``: what silos would receive next. Raises ConfigError where no silo has
    validation rows with labels.
    """
    losses = dict(engine.each(ValidationLoss(task), [silos[name] for name in sorted(silos)]))
    known = [loss for _, loss in sorted(losses.items()) if loss is not None]
    if not known:
        raise ConfigError(
            "train.patience: no silo has validation rows with labels; set data.val above 0, or remove it"
        )
    loss = inf if any(isinstance(one, SiloFailed) for one in known) else sum(known) / len(known)
    loss = loss if isfinite(loss) else inf
    if best is None or loss < best.loss:
        local = {name: silo.local for name, silo in silos.items()}
        best = BestRound(round, loss, task.shared, local, {name: silo.labels for name, silo in silos.items()})
    return best, loss if isfinite(loss) else None
