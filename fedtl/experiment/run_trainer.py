"""The trainer of a finished run: its model, as it was trained, without first weights and without rows."""

from dataclasses import replace
from functools import partial

from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.config.resolve import method_of, model_of, with_adapters_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.base import Method
from fedtl.models.dp_norm import restore_names
from fedtl.models.net import Shape
from fedtl.models.registry import with_private_norms
from fedtl.models.scaled import with_input_scale
from fedtl.models.state import State
from fedtl.training.config import TrainingConfig
from fedtl.training.trainer import OwnStart, Trainer


def run_trainer(
    experiment: Experiment,
    shape: Shape,
    training: TrainingConfig | None = None,
    model: ModelSettings | None = None,
) -> Trainer:
    """
    Return the trainer for inputs of this shape, on the CPU. ``training``: for what is still to be trained. ``model``: that of a
    silo which has its own; None: that of the experiment. Raises ConfigError or ModelError.
    """
    # The run's weights replace the first ones.
    model = (model or experiment.model).model_copy(update={"weights": ""})
    spec = model_of(model, shape, experiment.seed)
    alone: OwnStart | None = None
    if experiment.privacy is not None:
        alone, spec = OwnStart(spec), with_private_norms(spec)
        if experiment.data.scale == "dp":
            spec = with_input_scale(spec, shape)
    add = partial(with_adapters_of, model, shape=shape, roles=experiment.train.roles)
    spec, alone = add(spec), None if alone is None else OwnStart(add(alone.spec))
    dtype = experiment.model.dtype
    return Trainer(
        spec,
        Method() if experiment.method.is_absent else method_of(experiment.method),
        training or TrainingConfig(),
        dtype="float32" if dtype == "tf32" else dtype,
        alone=alone,
    )


def with_start(trainer: Trainer, start: State) -> Trainer:
    """Return the trainer with first weights by the names of its model, also for a model that a silo trains alone."""
    alone = trainer.alone
    if alone is not None:
        alone = replace(alone, start=restore_names(trainer.net(1), start))
    return replace(trainer, start=start, alone=alone)
