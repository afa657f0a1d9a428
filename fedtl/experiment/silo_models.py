"""Silos whose models differ (``[silo.<name>.model]``)."""

from collections.abc import Iterator
from dataclasses import replace

from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import check_scores, model_of, silo_model
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import DataSchema
from fedtl.models.net import Shape
from fedtl.training.trainer import Trainer


def _with_own_model(experiment: Experiment) -> list[str]:
    return sorted(name for name, own in experiment.silo.items() if own.model is not None)


def with_silo_models(experiment: Experiment, shape: Shape, trainer: Trainer) -> Trainer:
    """Return the trainer with the models of silos that have another one. Raises ConfigError or ModelError."""
    names = _with_own_model(experiment)
    others = {name: model_of(silo_model(experiment, name), shape, experiment.seed) for name in names}
    for name, spec in others.items():
        check_scores(spec, experiment.data, silo_model(experiment, name).name)
    return replace(trainer, others=others) if others else trainer


def check_silo_models(experiment: Experiment, schema: DataSchema) -> None:
    """Raise ConfigError where a silo that has a model of its own does not exist."""
    if unknown := [name for name in _with_own_model(experiment) if name not in schema.silos]:
        raise ConfigError(
            f"silo.{unknown[0]}: there is no such silo; there are {', '.join(list(schema.silos)[:12])}"
        )


def silo_model_notes(experiment: Experiment) -> Iterator[str]:
    """Yield a note that names the silos with another model."""
    if names := _with_own_model(experiment):
        models = ", ".join(f"{name}: {silo_model(experiment, name).name}" for name in names)
        yield f"some silos have another model than {experiment.model.name}, which is listed ({models}); no tensor of a model leaves"
