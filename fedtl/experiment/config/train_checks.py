"""Checks of ``[train]`` that the schema cannot make."""

from collections.abc import Iterator

from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import check_choice
from fedtl.experiment.config.model_schema import TrainSettings
from fedtl.experiment.config.resolve import changes_of, method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.optimizers import OPTIMIZERS


def train_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting of ``[train]`` that is not known, or that another setting contradicts."""
    train, rounds = experiment.train, experiment.rounds
    for check in (_check_optimizer, changes_of):
        try:
            check(train)
        except ConfigError as error:
            yield str(error)
    if train.optimizer != "sgd" and train.momentum != TrainSettings().momentum:
        yield f'train.momentum is a setting of optimizer "sgd", not of {train.optimizer!r}; remove it'
    if train.warmup >= rounds:
        yield f"train.warmup = {train.warmup}, but rounds = {rounds}: no round would have the whole learning rate; lower it"
    if train.patience and experiment.method.server.get("soup", 1) != 1:
        yield f"train.patience = {train.patience} and method.server.soup both say which rounds make the model; remove one of them"
    if experiment.model.checkpointing:
        yield from _of_checkpointing(experiment)
    if train.balanced and not experiment.data.predicted.has_classes:
        yield f'train.balanced draws classes equally often, but data.task = "{experiment.data.task}"; remove it'


def unsound_training(train: TrainSettings) -> Iterator[str]:
    """Yield a line for each setting of ``[train]`` under which a guarantee of ``[privacy]`` would not hold."""
    if train.clip is not None:
        yield f"[privacy] and train.clip = {train.clip:g}: privacy.clip shortens the gradient of each row; remove train.clip"
    if train.balanced:
        yield "[privacy] and train.balanced: the accountant assumes Poisson samples, in which all rows are equally likely; remove it"
    if train.patience:
        yield (
            f"[privacy] and train.patience = {train.patience}: the loss on private validation rows would decide what is released; "
            "remove train.patience"
        )
    if train.augment:
        yield "[privacy] and train.augment: changed images are not part of the private step; remove train.augment"


def _of_checkpointing(experiment: Experiment) -> Iterator[str]:
    """Yield a line where the backward pass would not find the weights of the forward pass in the model."""
    try:
        method = method_of(experiment.method)
    except ConfigError:
        return  # the check of the method reports it
    if any(phase.through is not None for phase in method.phases):
        yield f"model.checkpointing: method {experiment.method.name!r} trains mixed weights, which are gone when activations are computed again; remove it"


def _check_optimizer(train: TrainSettings) -> None:
    check_choice(OPTIMIZERS, train.optimizer, "train.optimizer")
