"""
Compress a silo's final model, or its mix of models, or in a simulation those of several silos, into one net: what ``fedtl export
--distil`` does.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedtl._util.randomness import address
from fedtl.data.dataset import SiloDataset
from fedtl.data.prepare import EvaluationSet
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.known_tasks import check_every_task
from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.config.resolve import model_arguments, model_of, training_of
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import study_data
from fedtl.experiment.study_data import RowStores
from fedtl.methods.base import Method
from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import mixed_scores
from fedtl.models.state import first_not_finite
from fedtl.results.metrics import Measured
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.at_home import FinalModel, Member, scores_in_loss
from fedtl.training.distil import Lesson, student
from fedtl.training.metrics import measure
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Distilled:
    """
    A silo's model as one net. ``teacher`` and ``student``: metrics on the silo's test rows. ``weights``: how many numbers the
    teacher's nets and the student have.
    """

    model: SiloModel
    teacher: Measured
    student: Measured
    weights: tuple[int, int]
    rows: int

    def about(self) -> Mapping[str, Any]:
        """Return what ``model.json`` says of it: metrics on test rows only where the run was not private, since the file may leave."""
        sizes = {"weights": {"teacher": self.weights[0], "student": self.weights[1]}}
        if self.model.experiment.privacy is not None:
            return sizes
        return {
            "test_rows": self.rows,
            "teacher": dict(self.teacher.figures),
            "student": dict(self.student.figures),
            **sizes,
        }


def lines(made: Distilled) -> list[str]:
    """Return what is printed of it, one line for each metric."""
    before, after = made.weights
    figures = made.teacher.figures
    return [
        f"{name} on {made.rows:,} test rows: {figures[name]:.4f} before, {made.student.figures[name]:.4f} as one net"
        for name in figures
        if name in made.student.figures
    ] + [f"{before:,} weights before, {after:,} in one net"]


def student_settings(model: SiloModel, name: str, settings: Mapping[str, Any]) -> ModelSettings:
    """Return the student's settings: those of the run's model where it is the same and nothing else is said. Raises ConfigError."""
    same = name == model.settings.name and not settings
    chosen = model.settings if same else ModelSettings(name=name, settings=dict(settings))
    chosen = chosen.model_copy(update={"weights": "", "pretrain_on": [], "freeze": 0, "adapters": None})
    model_arguments(chosen)
    return chosen


def other_teachers(folder: RunFolder, silo: str, names: Sequence[str]) -> tuple[SiloModel, ...]:
    """
    Return the models of further silos of a simulated run, which together with the one of ``silo`` teach one net; "all": of all.
    Raises ConfigError.
    """
    known = sorted(folder.result().silos)
    wanted = known if list(names) == ["all"] else list(dict.fromkeys(names))
    if unknown := sorted(set(wanted) - set(known)):
        raise ConfigError(f"--teacher: silo {unknown[0]!r} is not in the run; it has {', '.join(known)}")
    return tuple(SiloModel(folder, name) for name in wanted if name != silo)


def _check_teachers(model: SiloModel, others: Sequence[SiloModel]) -> None:
    for one in (model, *others):
        one.check_head()
    if others and model.experiment.privacy is not None:
        raise ConfigError(
            "--teacher: the run is private, and a silo's model must not be used for another silo; leave it out"
        )
    if unlike := [one.silo for one in others if one.classes != model.classes]:
        raise ConfigError(
            f"--teacher: {unlike[0]} has other labels than {model.silo}; name silos with the same labels"
        )


def _taught(models: Sequence[SiloModel], x: Tensor) -> Tensor:
    """Return what the models give together, each with the same weight, for prepared inputs [N, ...]."""
    parts = [one.final.scores(one.trainer, x, one.data) for one in models]
    return mixed_scores(parts, (1 / len(parts),) * len(parts), models[0].task)


def distilled(
    model: SiloModel, chosen: ModelSettings, epochs: int | None = None, others: Sequence[SiloModel] = ()
) -> Distilled:
    """
    Train a net of the ``chosen`` kind on the silo's own training rows, on their labels and on what the silo's model gives, or on the
    mean of what it and those of ``others`` give (Hinton et al., 2014), and measure teachers and net on its test rows, which decide
    nothing. ``epochs`` None: the number that the rounds and tuning of the run had together. Raises ConfigError, DataError or ModelError.
    """
    _check_teachers(model, others)
    experiment = model.experiment
    check_every_task(experiment, "--distil")
    data, test_rows = _rows(model)
    spec = model_of(chosen, model.shape, experiment.seed)
    training = training_of(experiment.train)
    trainer = Trainer(spec, Method(shared=frozenset()), training)
    if epochs is None:
        epochs = experiment.rounds * experiment.train.epochs + experiment.method.tune.epochs
    models = (model, *others)
    teacher = scores_in_loss(_taught(models, data.train.x), data)
    secret = address("secret", experiment.seed, model.silo).to_bytes(8, "big")
    state = student(trainer, Silo(model.silo, data, {}, secret), teacher, Lesson(epochs), experiment.seed)
    if broken := first_not_finite(state):
        raise ConfigError(f"--distil: {broken} is not finite after training; use another model")
    new = copy(model)
    new.plan, new.trainer, new.settings = spec, trainer, chosen
    new.final = FinalModel((Member(Candidate.OWN, 1.0, state),))
    x, y = test_rows.test.x, test_rows.test.y
    return Distilled(
        new,
        measure(_taught(models, x), y, data.task),
        measure(new.final.scores(trainer, x, data), y, data.task),
        (sum(map(_count, models)), _count(new)),
        len(y),
    )


def _rows(model: SiloModel) -> tuple[SiloDataset, EvaluationSet]:
    """Return the rows of the silo as the run prepared them. Raises DataError where they are others now."""
    experiment = model.experiment
    with temporary_store() as store:
        stores = RowStores(store, store)
        schema = read_data_schema(experiment, lambda name: stores.stored(experiment.data, name))
        rows = study_data(experiment, stores, schema)
        data, test_rows, inputs = (
            rows.dataset(model.silo),
            rows.evaluation_set(model.silo),
            rows.inputs(model.silo),
        )
    if (data.classes, schema.shape, inputs) != (model.classes, model.shape, model.inputs):
        raise DataError(
            f"silo {model.silo}: the rows of data.path are not those of the run: labels, shape or scale differ; restore them"
        )
    if not data.has_labels:
        raise DataError(f"silo {model.silo} has no row with a label, so no net can be trained there")
    return replace(data, target=None), test_rows


def _count(model: SiloModel) -> int:
    return sum(weight.numel() for net in model.nets().values() for weight in net.parameters())
