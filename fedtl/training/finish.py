"""
What happens once, after the last round: each silo finishes its own model, and only then are test rows read.

Silos that did not train get a model here too. Both are jobs that an engine runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedtl._util.randomness import numpy_generator
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import LEARNED
from fedtl.data.prepare import EvaluationSet
from fedtl.data.splits import at_random
from fedtl.errors import SiloFailed
from fedtl.messages import Task
from fedtl.methods.base import HEAD, Phase, fits_at_home, trained_roles
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.label_doubt import Doubts, label_doubts
from fedtl.methods.ridge import RidgeHead, is_linear
from fedtl.methods.sets import SUMMARY, part
from fedtl.methods.sharing import local
from fedtl.models.norms import statistics_distance
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.state import State, first_not_finite
from fedtl.results.metrics import Measured
from fedtl.training.at_home import (
    FinalModel,
    HomeSite,
    OwnModel,
    alone_trainer,
    features_by,
    finish,
    own_model,
    received_model,
    used_model,
)
from fedtl.training.evaluate import fits_statistics
from fedtl.training.metrics import measure
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

EARLY_EPOCHS = 3  # of training, after which few wrong labels have been learned
HEAD_EPOCHS = 50  # over a late silo's few labelled rows; a linear head has converged by then


@dataclass(frozen=True)
class Outcome:
    """
    The final model of a silo and its metrics. ``scores``, ``y`` and ``ids`` have one entry for each test row.

    ``received``: where the silo fits anything after the last round, the metrics on test rows of the model before that.
    ``refitted``: where the norms' statistics are shared, those of this earlier model with the exact statistics of the silo's
    training inputs instead. ``statistics_distance``: how far the trained statistics are from the exact ones
    (``models.norms.statistics_distance``); None in a private run, and for a model without running statistics.
    ``unlabelled``: of a silo without labels, the scores [N, width] of all its stored rows (``EvaluationSet``).
    ``doubts``: training labels that are probably wrong, by the features of a body trained shortly; None in a private run, in
    regression, and with too few rows.
    """

    model: FinalModel
    validation: Measured
    test: Measured
    scores: Tensor
    y: Tensor
    ids: Tensor
    received: Measured | None = None
    target: Measured | None = None
    target_adabn: Measured | None = None
    refitted: Measured | None = None
    statistics_distance: float | None = None
    unlabelled: Tensor | None = None
    doubts: Doubts | None = None

    def without_tensors(self) -> "Outcome":
        """Return the outcome without weights and scores, once they are written."""
        members = tuple(replace(member, state={}) for member in self.model.members)
        model, nothing = replace(self.model, members=members), torch.empty(0)
        return replace(self, model=model, scores=nothing, ids=nothing, unlabelled=None)


def has_no_head(trainer: Trainer, silo: Silo) -> bool:
    """Return whether nothing trained the silo's head: it stays at the silo, which has no labels."""
    return trainer.method.head_is_local and not silo.data.has_labels


def no_head(data: SiloDataset) -> Measured:
    """Return no metric, with the reason."""
    return Measured({}, dict.fromkeys(data.task.measured, "without labels the head was not trained"))


@dataclass(frozen=True)
class Examine:
    """
    The job that finishes a silo's model and measures it on validation rows, then on test rows, which ``evaluation_set`` reads.
    ``own``: trains, or finds, the silo's own model.
    """

    task: Task
    evaluation_set: Callable[[str], EvaluationSet]
    own: OwnModel = own_model

    def __call__(self, trainer: Trainer, silo: Silo) -> Outcome:
        model, data = finish(trainer, silo, self.task, self.own), silo.data
        if broken := [name for one in model.members if (name := first_not_finite(one.state))]:
            raise SiloFailed(
                f"{silo.name}: {broken[0]} is not finite after the last round; a lower train.lr may help"
            )
        if has_no_head(trainer, silo):
            nothing, none = torch.empty(0), no_head(data)
            return Outcome(model, none, none, nothing, nothing, nothing)
        test_rows = self.evaluation_set(silo.name)
        scores = model.scores(trainer, test_rows.test.x, data)
        target: Measured | None = None
        target_adabn: Measured | None = None
        if test_rows.target is not None and data.target is not None:
            target = measure(model.scores(trainer, test_rows.target.x, data), test_rows.target.y, data.task)
            adapted = model.adapted(trainer, data.target, data.width)
            target_adabn = measure(
                adapted.scores(trainer, test_rows.target.x, data), test_rows.target.y, data.task
            )
        received = received_model(trainer, silo, self.task)
        refitted, distance = self._refitted(trainer, silo, test_rows.test)
        return Outcome(
            model=model,
            validation=measure(model.scores(trainer, data.val.x, data), data.val.y, data.task),
            test=measure(scores, test_rows.test.y, data.task),
            scores=scores,
            y=test_rows.test.y,
            ids=test_rows.ids,
            received=_measured(trainer, received, test_rows.test, data)
            if fits_at_home(trainer.method)
            else None,
            target=target,
            target_adabn=target_adabn,
            refitted=refitted,
            statistics_distance=distance,
            unlabelled=None if test_rows.stored is None else model.scores(trainer, test_rows.stored, data),
            doubts=_doubts(trainer, silo, self.task),
        )

    def _refitted(self, trainer: Trainer, silo: Silo, test: Dataset) -> tuple[Measured | None, float | None]:
        """Return the outcome's ``refitted`` and ``statistics_distance``; a private run has neither."""
        method, (x, width) = trainer.method, (silo.data.inputs, silo.data.width)
        if method.exact_statistics != ExactStatistics.OWN:
            return None, None
        used = used_model(trainer, silo, self.task, trainer.partition.join(self.task.shared, silo.local))
        exact = trainer.adapt(used, x, width)
        distance = statistics_distance(used, exact)
        if distance is None or fits_statistics(method, trainer.partition, used, self.task.shared):
            return None, distance if Role.STATS in trained_roles(method) else None
        return _measured(trainer, exact, test, silo.data), distance


def _doubts(trainer: Trainer, silo: Silo, task: Task) -> Doubts | None:
    """
    Return which training labels are in doubt, by the features of a body that was trained on them for EARLY_EPOCHS epochs only:
    right labels are learned first (Arpit et al., 2017; Liu et al., 2020), and a body that has learned a wrong one probably makes
    features that agree with it: after 40 rounds, no label of a silo with 40 % wrong ones was in doubt.
    """
    data = silo.data
    if silo.guarantee or not data.classes or not data.has_labels:
        return None
    alone, (phase,) = alone_trainer(trainer), local().phases
    state = alone.initial(data.width)
    for number in range(1, EARLY_EPOCHS + 1):
        state = alone.train(silo, state, replace(phase, epochs=1), replace(task, round=number, shared={}), 0)
    rows = features_by(alone, alone.adapt(state, data.inputs, data.width), data.train, data)
    return label_doubts(rows.features, rows.y, data.width) if len(rows) == len(data.train) else None


@dataclass(frozen=True)
class Onboard:
    """
    The job that gives a silo that did not train the shared model, with ``shots`` labelled rows a class and all its inputs.

    Where the head is shared: the model as received, and after AdaBN. Otherwise: a head of its own on the received body
    with the initial statistics, one after AdaBN (both only if the head is ``trained``), and one in closed form after AdaBN
    (``ridge_adabn``), from the silo's rows and, if the method has them, the sums that it received; nothing is chosen on
    validation rows. For comparison, the silo trained alone on the same labelled rows, with the exact statistics of all its inputs.
    """

    task: Task
    evaluation_set: Callable[[str], EvaluationSet]
    shots: int
    alone_epochs: int
    head: Literal["trained", "ridge"] = "trained"

    def __call__(self, trainer: Trainer, silo: Silo) -> dict[str, Measured]:
        test_rows, data = self.evaluation_set(silo.name), silo.data
        few = Silo(silo.name, _few(data, self.shots, self.task.seed, silo.name), silo.local, silo.secret)
        initial = trainer.initial(data.width)
        alone = trainer.train(few, initial, Phase(EVERYTHING, self.alone_epochs), self.task)
        # In a private run the norms' statistics are constant in training, so there is nothing to replace.
        adapts = trainer.method.exact_statistics == ExactStatistics.OWN
        models = {"alone": trainer.adapt(alone, data.inputs, data.width) if adapts else alone}
        received = trainer.partition.join(self.task.shared, silo.local)
        adapted = trainer.adapt(received, data.inputs, data.width)
        if (
            trainer.method.head_is_local
            and self.task.shared
            and is_linear(adapted)
            and data.task.least_squares
        ):
            blind = replace(few, data=replace(few.data, val=few.data.val.take(torch.arange(0))))
            models["ridge_adabn"] = with_ridge_head(trainer, blind, self.task, received, adapted)
        if trainer.partition.shared:
            if trainer.method.head_is_local and self.head == "trained":
                models["head"] = trainer.train(few, received, Phase(HEAD, HEAD_EPOCHS), self.task)
                models["head_adabn"] = trainer.train(few, adapted, Phase(HEAD, HEAD_EPOCHS), self.task)
            elif not trainer.method.head_is_local:
                models["as_received"], models["adabn"] = received, adapted
        return {row: _measured(trainer, state, test_rows.test, data) for row, state in models.items()}


def with_ridge_head(trainer: Trainer, silo: Silo, task: Task, received: State, model: State) -> State:
    """Return the model with a ridge head on its features: by the method's own step, or on the silo's rows alone."""
    steps = (step for step in trainer.method.finish if isinstance(step, RidgeHead))
    site = HomeSite(trainer, silo, task, received, len(trainer.method.phases))
    sets = trainer.sets(received) | {SUMMARY: part(received, SUMMARY)}
    return next(steps, RidgeHead())(site, model, sets)


def _few(data: SiloDataset, shots: int, seed: int, name: str) -> SiloDataset:
    """Return the silo with ``shots`` labelled rows of each class, or in regression ``shots`` rows."""
    rng = numpy_generator("shots", seed, name)
    kept: list[int] = []
    groups = torch.unique(data.train.y).tolist() if data.classes else [None]
    for group in groups:
        rows = torch.arange(len(data.train)) if group is None else (data.train.y == group).nonzero()[:, 0]
        drawn, _ = at_random(len(rows), shots, rng)
        kept += rows[drawn].tolist()
    chosen = torch.tensor(sorted(kept))
    train = Dataset(data.train.x[chosen], data.train.y[chosen])
    return replace(data, train=train, target=None, origins=LEARNED, one_domain=False)


def _measured(trainer: Trainer, state: State, rows: Dataset, data: SiloDataset) -> Measured:
    return measure(trainer.scores(state, rows.x, data), rows.y, data.task)
