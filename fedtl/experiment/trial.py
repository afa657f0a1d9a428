"""One trial of settings: trained as a run is, and measured on validation rows. Test rows are neither scored nor read."""

import shutil
from dataclasses import dataclass
from math import isfinite

from fedtl.data.labels import has_label
from fedtl.errors import NotEnoughSilos, SiloFailed
from fedtl.experiment.config.schema import AuditSettings, Experiment
from fedtl.experiment.run import Given, Machine, ready_study, trained
from fedtl.experiment.run_folder import RunFolder
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.results.tuning import TrialResult
from fedtl.training.at_home import OwnModel, finish, own_model
from fedtl.training.metrics import quick
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

FILE = "trial.json"


@dataclass(frozen=True)
class Validate:
    """
    The job that finishes a silo's model and returns its loss on validation rows; in regression divided by the variance of
    the silo's training labels. None where no such row has a label.
    """

    task: Task
    own: OwnModel = own_model

    def __call__(self, trainer: Trainer, silo: Silo) -> float | None:
        data = silo.data
        if not has_label(data.val).any():
            return None
        scores = finish(trainer, silo, self.task, self.own).scores(trainer, data.val.x, data)
        loss = quick(scores, data.val.y, data.task).get("loss", float("inf")) / data.loss_unit
        if not isfinite(loss):
            raise SiloFailed(f"{silo.name}: the loss on validation rows is not finite")
        return loss


def run_trial(
    experiment: Experiment, folder: RunFolder, device: str, start: State | None, given: Given
) -> TrialResult:
    """
    Train the experiment, or what is left of it, and return what ``trial.json`` then holds. A trial in which training
    diverges has failed, and is not an error. Raises what ``run`` raises otherwise.
    """
    if folder.has(FILE):
        return folder.trial()
    experiment = experiment.model_copy(update={"audit": AuditSettings()})
    try:
        losses = _losses(experiment, folder, Machine(device, start), given)
        result = TrialResult(losses, "" if losses else "no silo has validation rows")
    except (SiloFailed, NotEnoughSilos) as error:
        result = TrialResult(failed=str(error))
    folder.write_json(FILE, result)
    shutil.rmtree(folder.path / "checkpoint", ignore_errors=True)
    return result


def _losses(experiment: Experiment, folder: RunFolder, on: Machine, given: Given) -> dict[str, float]:
    with (
        ready_study(experiment, folder, on, given.raws) as (study, started),
        trained(study, folder, started) as done,
    ):
        losses = dict(done.each(Validate(done.task, given.own or own_model), done.silos))
    return {name: loss for name, loss in sorted(losses.items()) if loss is not None}
