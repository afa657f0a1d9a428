"""Whether the rounds train the heads of silos, where the method leaves this to the data (``method.head = "auto"``)."""

from collections.abc import Sequence
from dataclasses import replace

from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.data_schema import DataSchema
from fedtl.methods.base import Method, trained_roles
from fedtl.methods.ridge import is_linear
from fedtl.methods.simplex import fixed_head, simplex
from fedtl.models.roles import Role
from fedtl.results.plan import Heads
from fedtl.tasks.classification import Classification
from fedtl.training.trainer import Trainer

MANY = 3  # with two classes, heads as a simplex gained as often as they lost (simulations/results)


def with_settled_head(
    trainer: Trainer, experiment: Experiment, schema: DataSchema, silos: Sequence[str]
) -> Trainer:
    """
    Return the trainer with heads that the rounds train or, where ``fixes_heads``, leave as a simplex. ``silos``: those that train.
    """
    if not trainer.method.auto_head:
        return trainer
    if fixes_heads(trainer, experiment, schema, silos):
        return replace(trainer, method=fixed_head(trainer.method, simplex))
    return replace(trainer, method=replace(trainer.method, auto_head=False))


def named_head(settings: MethodSettings, trainer: Trainer) -> MethodSettings:
    """Return the settings with what became of "auto", so that a plan says itself whether heads are trained."""
    if not method_of(settings).auto_head:
        return settings
    return MethodSettings.model_validate(
        {**settings.model_dump(), "head": heads_in_rounds(trainer.method).value}
    )


def head_of_plan(settings: MethodSettings) -> MethodSettings:
    """Return the settings of a plan. One that leaves the head to the data is of an earlier fedtl, whose rounds trained every head."""
    if not method_of(settings).auto_head:
        return settings
    return MethodSettings.model_validate({**settings.model_dump(), "head": Heads.TRAINED.value})


def heads_in_rounds(method: Method) -> Heads:
    """Return what the rounds of a settled method do with heads."""
    if Role.HEAD in trained_roles(method):
        return Heads.TRAINED
    return Heads.FIXED if method.head_start is None else Heads.SIMPLEX


def fixes_heads(trainer: Trainer, experiment: Experiment, schema: DataSchema, silos: Sequence[str]) -> bool:
    """
    Return whether heads are to be a simplex. It was measured where this holds: each silo has the same three or more classes, so that
    a class has one direction everywhere; a body starts from random weights, and all of it is trained and shared, without noise; and
    silos fit their heads when they tune.
    """
    method, model = trainer.method, experiment.model
    random = not (model.weights or model.pretrain_on or model.value is not None)
    tuned = method.tune is not None and Role.HEAD in method.tune.trained
    return (
        MANY <= _classes_of_all(experiment, schema, silos) <= trainer.spec.features
        and random
        and experiment.privacy is None
        and tuned
        and method.cut is None
        and is_linear(trainer.net(1).state_dict())
        and _trains_whole_body(trainer)
    )


def _classes_of_all(experiment: Experiment, schema: DataSchema, silos: Sequence[str]) -> int:
    """Return how many classes each silo has; 0 where they have different ones, or not all have labels."""
    labels = {schema.silos[name].classes for name in silos}
    if (
        not isinstance(experiment.data.predicted, Classification)
        or len(labels) != 1
        or experiment.data.unlabelled
    ):
        return 0
    return len(labels.pop())


def _trains_whole_body(trainer: Trainer) -> bool:
    parameters = {name for name, _ in trainer.net(1).named_parameters()}
    body = {name for name in parameters if trainer.loop.roles[name] in (Role.BODY, Role.ADAPTER)}
    moved = {name for phase in trainer.method.phases for name in trainer.loop.movable(phase.train)}
    return bool(body) and body <= moved
