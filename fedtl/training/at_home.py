"""
What a silo does with its model after the last round, on its own rows: the method's finishing steps, tuning, and the choice
of a mix. Nothing of it leaves the silo, and nothing in the silo changes. Which tensors stay at a silo in the rounds is decided
by ``Method.shared`` and ``models.roles.Partition``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.messages import Task
from fedtl.methods.base import LabelledFeatures, Part, Phase
from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import choose_mix, kept, mixed_scores, mixes
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.restrict import train_only
from fedtl.methods.sets import SUMMARY, model_part, part
from fedtl.methods.sharing import local
from fedtl.models.roles import Role
from fedtl.models.state import State, copy_state, first_not_finite
from fedtl.results.run import Interpolated
from fedtl.training.between import interpolated
from fedtl.training.evaluate import fits_statistics, labelled_features
from fedtl.training.metrics import row_losses
from fedtl.training.nets import Use
from fedtl.training.silo import Silo

if TYPE_CHECKING:
    from fedtl.training.trainer import Trainer

OwnModel = Callable[["Trainer", Silo, Task], State]
Watch = Callable[[int, int], None]  # called with the number of rounds done and that of all


@dataclass(frozen=True)
class Member:
    """One model of a mix: which candidate it is, its weight, and every tensor of it."""

    name: Candidate
    weight: float
    state: State


@dataclass(frozen=True)
class FinalModel:
    """
    The mix of models that a silo uses; most methods use one model. ``validation_rows``: the number of rows by which it was chosen;
    ``mixes``: the number of mixes that were compared. ``interpolated``: the curve between two candidates, where one was computed.
    """

    members: tuple[Member, ...]
    validation_rows: int = 0
    mixes: int = 1
    interpolated: Interpolated | None = None

    @property
    def main(self) -> Member:
        """The model, where there is one; otherwise the last model of the mix that was trained together with others."""
        return next((one for one in reversed(self.members) if one.name is not Candidate.OWN), self.members[0])

    def adapted(self, trainer: "Trainer", x: Tensor, width: int) -> "FinalModel":
        """Return the mix of the same models, each with the exact statistics of inputs ``x``."""
        members = (
            replace(one, state=trainer_of(one, trainer).adapt(one.state, x, width)) for one in self.members
        )
        return replace(self, members=tuple(members))

    def scores(self, trainer: "Trainer", x: Tensor, data: SiloDataset) -> Tensor:
        """Return the outputs [N, width] of the mix, as the task mixes them."""
        parts = [trainer_of(one, trainer).scores(one.state, x, data) for one in self.members]
        return mixed_scores(parts, tuple(one.weight for one in self.members), data.task)


@dataclass(frozen=True)
class HomeSite:
    """What a finishing step may use of a silo (``methods.base.Site``). ``number``: batches and layers draw from it."""

    trainer: "Trainer"
    silo: Silo
    task: Task
    state: State
    number: int

    @property
    def lr(self) -> float:
        return self.trainer.training.lr

    def train(self, state: State, phase: Phase, lr: float | None = None, repeat: int = 0) -> State:
        task = replace(self.task, round=self.task.round + repeat)
        return self.trainer.train(self.silo, self.state | state, phase, task, self.number, lr, self.state)

    def adapted(self, state: State, moved: frozenset[Role]) -> State:
        if self.trainer.method.exact_statistics == ExactStatistics.NEVER or Role.STATS not in moved:
            return state
        return self.trainer.adapt(state, self.silo.data.inputs, self.silo.data.width)

    def losses(self, state: State, rows: Part = "val") -> Tensor:
        data = self.silo.data
        part = data.train if rows == "train" else data.val
        return row_losses(self.trainer.scores(state, part.x, data), part.y, data.task)

    def scores(self, state: State) -> Tensor:
        data = self.silo.data
        return scores_in_loss(self.trainer.scores(state, data.train.x, data), data)

    def features(self, state: State, rows: Part) -> LabelledFeatures:
        data = self.silo.data
        return features_by(self.trainer, state, data.train if rows == "train" else data.val, data)


def scores_in_loss(scores: Tensor, data: SiloDataset) -> Tensor:
    """Return a model's scores in the scale in which losses see them: in regression not in the label's own unit."""
    return data.scaled(scores)


def features_by(trainer: "Trainer", state: State, rows: Dataset, data: SiloDataset) -> LabelledFeatures:
    """Return the features of those of the rows that have a label, by the model of ``state``."""
    net = trainer.net(data.width, Use.EVALUATION)
    net.load_state_dict(model_part(state))
    return labelled_features(net, rows, data, trainer.device, trainer.dtype)


def used_model(trainer: "Trainer", silo: Silo, task: Task, state: State) -> State:
    """Return the model that a silo would use of ``state`` before anything is fitted to its rows."""
    model, sets = model_part(state), trainer.sets(state)
    for step in trainer.method.finish:
        if not step.trained:
            model = step(HomeSite(trainer, silo, task, state, len(trainer.method.phases)), model, sets)
    return model


def received_model(trainer: "Trainer", silo: Silo, task: Task) -> State:
    """
    Return every tensor of the model that the silo uses after the last round if nothing is trained at home: with exact
    statistics where they are the silo's own.
    """
    model = used_model(trainer, silo, task, trainer.partition.join(task.shared, silo.local))
    if fits_statistics(trainer.method, trainer.partition, model, task.shared):
        model = trainer.adapt(model, silo.data.inputs, silo.data.width)
    return copy_state(model)


def tuned_model(trainer: "Trainer", silo: Silo, task: Task) -> State:
    """Return every tensor of the model after the method's finishing steps and tuning, with exact statistics."""
    state, model = trainer.partition.join(task.shared, silo.local), received_model(trainer, silo, task)
    sets = trainer.sets(state) | {SUMMARY: part(state, SUMMARY)}
    moved = fixed = False  # the statistics
    for number, step in enumerate(step for step in trainer.method.steps if step.trained):
        # ``train`` draws from the number after the first one.
        site = HomeSite(trainer, silo, task, state, len(trainer.method.phases) + 2 * number)
        if step.at in ("all", "labelled" if silo.data.has_labels else "unlabelled"):
            model = step(site, model, sets)
            moved, fixed = moved or Role.STATS in step.trained, fixed or step.fixes_statistics
        elif step.at == "labelled" and not fixed:
            model = site.adapted(model, step.trained)
    if moved and not fixed and trainer.method.exact_statistics != ExactStatistics.NEVER:
        model = trainer.adapt(model, silo.data.inputs, silo.data.width)
    return copy_state(model)


def alone_trainer(trainer: "Trainer") -> "Trainer":
    """
    Return the trainer of a silo's own model: that of the method ``local`` with the same tuning, never private. Without noise
    there is no reason to train a few roles only, so where training together is private, it trains all of them.
    """
    own, method = trainer.alone, replace(local(), tune=trainer.method.tune)
    if own is None:
        return replace(trainer, method=train_only(method, map(Role, trainer.training.roles)))
    return replace(trainer, method=method, spec=own.spec, start=own.start, alone=None)


def trainer_of(member: Member, trainer: "Trainer") -> "Trainer":
    """Return the trainer that scores a member of a mix."""
    return alone_trainer(trainer) if member.name is Candidate.OWN else trainer


def own_model(trainer: "Trainer", silo: Silo, task: Task, watch: Watch | None = None) -> State:
    """
    Return the model that the method ``local`` gives the silo, to the bit: ``alone_trainer`` trains it for the rounds of ``task``,
    with the same tuning. ``watch`` is called after each round.
    """
    alone = alone_trainer(trainer)
    state = trained_alone(alone, silo, task, alone.initial(silo.data.width), watch)
    return tuned_model(alone, Silo(silo.name, silo.data, state, silo.secret), replace(task, shared={}))


def trained_alone(
    alone: "Trainer", silo: Silo, task: Task, state: State, watch: Watch | None = None
) -> State:
    """
    Return the state after the silo has trained it alone for the rounds of ``task``. ``alone``: from ``alone_trainer``;
    ``watch`` is called after each round.
    """
    (phase,) = alone.method.phases
    for number in range(1, task.rounds + 1):
        state = alone.train(silo, state, phase, replace(task, round=number, shared={}), 0)
        if watch:
            watch(number, task.rounds)
    return state


def finish(trainer: "Trainer", silo: Silo, task: Task, own: OwnModel = own_model) -> FinalModel:
    """
    Return the model that the silo uses itself after the last round. ``own``: returns the silo's own model, which it trains or
    has stored; a silo without labels has none.
    """
    if trainer.method.pool:  # the model was tuned on the rows of all silos together
        return FinalModel((Member(Candidate.SHARED, 1.0, received_model(trainer, silo, task)),))
    choose, tuned = trainer.method.choose, tuned_model(trainer, silo, task)
    headless = trainer.method.head_is_local and not silo.data.has_labels  # nothing could choose
    if choose is None or headless or not any(map(trainer.partition.leaves, trainer.partition.roles)):
        return FinalModel((Member(Candidate.TUNED, 1.0, tuned),))
    make: dict[Candidate, Callable[[], State]] = {
        Candidate.OWN: lambda: own(trainer, silo, task),
        Candidate.TUNED: lambda: tuned,
    }
    if not any(
        step.trained for step in trainer.method.finish
    ):  # such a step makes the model that is to be used
        make[Candidate.SHARED] = lambda: _shared_model(trainer, silo, task)
    if not silo.data.has_labels:
        del make[Candidate.OWN]
    if any(not step.trained for step in trainer.method.finish):
        make[Candidate.PERSONAL] = lambda: received_model(trainer, silo, task)
    wanted, curve, ends = choose.candidates, None, choose.interpolation.ends
    if Candidate.INTERPOLATED in wanted and make.keys() >= set(ends):
        wanted = tuple(dict.fromkeys((*wanted, *ends)))
    models = {name: make[name]() for name in wanted if name in make}
    if Candidate.INTERPOLATED in wanted and models.keys() >= set(ends):
        first, last = (models[name] for name in ends)
        between, curve = interpolated(trainer, silo.data, first, last, choose.interpolation)
        models[Candidate.INTERPOLATED] = between
    candidates = {name: models[name] for name in choose.candidates if name in models}
    return replace(_chosen(trainer, silo.data, candidates or {Candidate.TUNED: tuned}), interpolated=curve)


def _shared_model(trainer: "Trainer", silo: Silo, task: Task) -> State:
    """Return the model as the rounds left it, with exact statistics where they may be fitted."""
    model = model_part(trainer.partition.join(task.shared, silo.local))
    if trainer.method.exact_statistics == ExactStatistics.NEVER:
        return copy_state(model)
    return copy_state(trainer.adapt(model, silo.data.inputs, silo.data.width))


def _chosen(trainer: "Trainer", data: SiloDataset, candidates: Mapping[Candidate, State]) -> FinalModel:
    """Return the mix of these candidates that the silo's validation rows choose; of those that are finite, if any is."""
    candidates = {
        name: one for name, one in candidates.items() if first_not_finite(one) is None
    } or candidates
    val = data.val
    members = {name: Member(name, 1.0, state) for name, state in candidates.items()}
    scores = {name: trainer_of(one, trainer).scores(one.state, val.x, data) for name, one in members.items()}
    taking_part = kept({name: row_losses(one, val.y, data.task) for name, one in scores.items()})
    parts, possible = [scores[name] for name in taking_part], mixes(len(taking_part))
    losses = [row_losses(mixed_scores(parts, weights, data.task), val.y, data.task) for weights in possible]
    weights = possible[choose_mix(losses)]
    used = [
        replace(members[name], weight=weight)
        for name, weight in zip(taking_part, weights, strict=True)
        if weight
    ]
    return FinalModel(tuple(used), len(losses[0]), len(possible))
