"""One silo under one seed: the others train together without it, and it trains with the first stages of their model."""

import shutil
from pathlib import Path

from fedtl._util.randomness import address
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.config.resolve import model_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.jobs import TRAININGS, job_folder
from fedtl.experiment.run import Machine, ready_study, trained
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.messages import Task
from fedtl.models.net import ModelSpec
from fedtl.models.state import State
from fedtl.results.transferability import Begin, SiloTransfer, Training
from fedtl.simulation.shared_store import SharedStore
from fedtl.training.metrics import measure, quick
from fedtl.training.similarity import stage_measures
from fedtl.training.trainer import Trainer
from fedtl.training.transplant import donors_of, transplants

FILE = "transfer.json"


def do_transfer(
    experiment: Experiment, path: Path, device: str, start: State | None, rows: SharedStore
) -> None:
    """
    Do all trainings at the silo that stands last in ``data.late``, and write transfer.json. Rounds of the others that the folder
    already has are not repeated.
    """
    folder = job_folder(experiment, path)
    if folder.has(FILE):
        return
    shutil.rmtree(path / TRAININGS, ignore_errors=True)
    with (
        ready_study(experiment, folder, Machine(device, start), rows) as (study, on),
        trained(study, folder, on) as done,
    ):
        folder.write_json(FILE, _transfer(study, folder, done.shared))
    shutil.rmtree(path / "checkpoint", ignore_errors=True)


def is_pretrained(experiment: Experiment) -> bool:
    return bool(experiment.model.weights or experiment.model.pretrain_on)


def _transfer(study: Study, folder: RunFolder, shared: State) -> SiloTransfer:
    experiment, trainer = study.experiment, study.trainer
    name = experiment.data.late[-1]
    silo, test = study.silo(name, study.data(name)), study.evaluation_set(name).test
    task = Task(folder.path.name, experiment.rounds + 1, experiment.rounds, experiment.seed, shared)
    donors = donors_of(trainer, silo, shared, new_spec(study))
    results, models = list[Training](), dict[Begin, State]()
    for begin, count, state in transplants(trainer, silo, task, donors, is_pretrained(experiment)):
        if not count:
            models[begin] = state
        results.append(measured(trainer, state, silo.data, test, (begin, count)))
        folder.write_json(f"{TRAININGS}/{len(results):03}.json", results[-1])
    measures = stage_measures(trainer, silo.data, donors.others, models[Begin.OWN], models[Begin.NEW])
    return SiloTransfer(name, experiment.seed, tuple(results), measures)


def measured(
    trainer: Trainer, state: State, data: SiloDataset, test: Dataset, which: tuple[Begin, int]
) -> Training:
    """Return the loss of a training's model on the silo's validation rows, and its metrics on ``test``."""
    loss = quick(trainer.scores(state, data.val.x, data), data.val.y, data.task).get("loss")
    scaled = None if loss is None else loss / data.loss_unit
    return Training(*which, scaled, measure(trainer.scores(state, test.x, data), test.y, data.task))


def new_spec(study: Study) -> ModelSpec:
    """Return the model with random weights that no other model of the study began with."""
    model = study.experiment.model.model_copy(update={"weights": "", "pretrain_on": []})
    seed = address("new weights", study.experiment.seed) % 2**31
    return model_of(model, study.schema.shape, seed)
