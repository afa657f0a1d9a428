"""
One silo's side of a round. Simulation, deployment and audit all call ``Trainer.fit``, which cannot reach test rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fedtl.data.dataset import SiloDataset
from fedtl.errors import SiloFailed
from fedtl.messages import Task, Update
from fedtl.methods.base import Method, Phase
from fedtl.models import precision
from fedtl.models.net import ModelSpec, Net, stages
from fedtl.models.roles import Partition, Role, roles
from fedtl.models.state import State, copy_state, difference, first_not_finite
from fedtl.privacy import taint as labels
from fedtl.privacy.charge import charged_round
from fedtl.training import private
from fedtl.training.evaluate import exact_statistics, scores_of
from fedtl.training.loop import Loop, TrainingConfig
from fedtl.training.metrics import quick
from fedtl.training.nets import Cache, NetKey, Use, new_net
from fedtl.training.silo import Silo

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Trainer:
    """
    What a process needs to train any silo: model, method and settings, which do not change. ``dataclasses.replace``
    makes another trainer with other settings; both use one ``cache``.

    ``start`` replaces the model's first weights where a tensor has the same name and shape. ``dtype`` is one of
    ``precision.DTYPES``; raises ConfigError where the device cannot compute in it.
    """

    spec: ModelSpec
    method: Method
    training: TrainingConfig
    device: torch.device = CPU
    start: State = field(default_factory=dict, repr=False)
    dtype: str = "float32"
    cache: Cache = field(default_factory=Cache, repr=False)
    partition: Partition = field(init=False, repr=False)
    loop: Loop = field(init=False, repr=False)

    def __post_init__(self) -> None:
        precision.set_precision(self.dtype, self.device)
        partition = Partition(roles(self.net(1)), self.method.shared)
        frozen = frozenset(
            f"body.{name}" for stage in stages(self.spec.body)[: self.training.freeze] for name in stage
        )
        loop = Loop(self.method, self.training, partition.roles, frozen, self.device, self.dtype)
        object.__setattr__(self, "partition", partition)
        object.__setattr__(self, "loop", loop)

    def net(self, width: int, use: Use = Use.TRAINING) -> Net:
        """Return the net with a head of ``width`` outputs; its weights are whatever it held last."""
        return self.cache.net(NetKey(self.spec, self.method.losses, width, self.device, use))

    def initial(self, width: int) -> State:
        """Return every tensor before training: the same for each silo with a head of this width, in every process."""
        fresh = new_net(self.spec, self.method.losses, width).state_dict()
        given = {name: tensor for name, tensor in self.start.items() if fresh[name].shape == tensor.shape}
        return copy_state(fresh | given)

    def fit(self, silo: Silo, task: Task) -> Update:
        """
        Train on the silo's rows, from the task's shared tensors; the metrics are of the received model, before training.
        ``silo.local`` and ``silo.labels`` change only when nothing failed.

        With a privacy guarantee the round is charged first, and the update holds only noisy tensors and, where the
        guarantee has a metric, a noisy accuracy.

        Raises SiloFailed when a tensor is not finite after training or the guarantee has no such round, Refused when a
        local tensor must not go into a private round, and ConfigError when one example affects another's gradient in
        this model; that costs nothing.
        """
        if silo.guarantee is None:
            update, local = self._round(silo, task)
        else:
            labels.check(silo.labels, {name: self.partition.roles[name] for name in silo.local}, silo.name)
            self._verify(silo, task)
            update, local = charged_round(silo.guarantee, silo.name, task, partial(self._round, silo, task))
        silo.local, silo.labels = local, self._labels_after(silo)
        return update

    def fit_unaccounted(self, silo: Silo, task: Task) -> Update:
        """
        Do the private round that ``fit`` does, without charging it: for an attacker's own models, never for a release.
        The model is verified once a process, not in each round.

        Raises SiloFailed and ConfigError as ``fit`` does, and ValueError for a silo without a guarantee.
        """
        if silo.guarantee is None:
            raise ValueError(f"{silo.name} has no privacy guarantee; call fit")
        if not set(private.private_phases(self.loop, silo).values()) <= self.cache.gradient_methods.keys():
            self._verify(silo, task)
        first = silo.labels.get(Role.STATS) is not labels.Label.RELEASED
        update, silo.local = self._round(silo, task, first)
        silo.labels = self._labels_after(silo)
        return update

    def finish(self, silo: Silo, task: Task) -> State:
        """
        Return every tensor of the model that the silo uses itself after the last round: the shared and its local ones,
        with exact statistics and personalised as the method says. Changes nothing in the silo.
        """
        state, x, width = self.partition.join(task.shared, silo.local), silo.data.train.x, silo.data.width
        if self.method.fits_received_statistics:
            state = self.adapt(state, x, width)
        if self.method.personalise.epochs:
            state = self._trained(silo, state, self.method.personalise.phase, task, len(self.method.phases))
            if self.method.fits_tuned_statistics:
                state = self.adapt(state, x, width)
        return copy_state(state)

    def train(self, silo: Silo, state: State, phase: Phase, task: Task) -> State:
        """Return ``state`` after one more phase of training on the silo's rows, for what is fitted after the last round."""
        return self._trained(silo, state, phase, task, len(self.method.phases) + 1)

    def scores(self, state: State, x: Tensor, data: SiloDataset) -> Tensor:
        """Return the model's outputs [N, width] on the CPU; for regression in the label's own unit."""
        return scores_of(self._evaluated(state, data.width), x, data, self.device, self.dtype)

    def adapt(self, state: State, x: Tensor, width: int) -> State:
        """Return ``state`` with AdaBN's exact statistics of inputs ``x``; unchanged for a model without running statistics."""
        return state | exact_statistics(self._evaluated(state, width), x, self.device)

    def _evaluated(self, state: State, width: int) -> Net:
        net = self.net(width, Use.EVALUATION)
        net.load_state_dict(state)
        return net

    def _trained(self, silo: Silo, state: State, phase: Phase, task: Task, number: int) -> State:
        net = self._loaded(silo, state)
        self.loop.run(net, phase, silo, task, number, {})
        return copy_state(net.state_dict())

    def _loaded(self, silo: Silo, state: State) -> Net:
        net = self.net(silo.data.width)
        net.load_state_dict(state)
        return net

    def _verify(self, silo: Silo, task: Task) -> None:
        net = self._loaded(silo, self.partition.join(task.shared, silo.local))
        private.verify(self.loop, net, silo, task, self.cache.gradient_methods)

    def _round(self, silo: Silo, task: Task, first: bool = False) -> tuple[Update, State]:
        """Return the update and the silo's new local tensors. ``first``: this private round releases the statistics too."""
        state = self.partition.join(task.shared, silo.local)
        metrics = received_metrics(self, silo, state, task.round)
        net = self._loaded(silo, state)
        received = {name: tensor.to(self.device) for name, tensor in task.shared.items()}
        if silo.guarantee is None:
            for number, phase in enumerate(self.method.phases):
                self.loop.run(net, phase, silo, task, number, received)
        else:
            if first and silo.guarantee.releases.statistics:
                private.release_statistics(self.loop, net, silo, silo.guarantee.releases.statistics)
            for number, key in private.private_phases(self.loop, silo).items():
                private.train_phase(
                    self.loop, net, silo, task, number, received, self.cache.gradient_methods[key]
                )
        state = net.state_dict()
        if broken := first_not_finite(state):
            raise SiloFailed(
                f"{silo.name}: {broken} is not finite after round {task.round}; a lower train.lr may help"
            )
        shared, local = self.partition.cut(state)
        delta = difference(copy_state(shared), task.shared)
        # The number of rows is not part of a private update, so every private silo has the same weight.
        weight = 1.0 if silo.guarantee else float(len(silo.data.train))
        return Update(silo.name, task.round, delta, weight, metrics), copy_state(local)

    def _labels_after(self, silo: Silo) -> labels.Labels:
        """Return the provenance labels of the silo's local tensors after one more round."""
        moved = self.method.trained - self.method.shared
        if silo.guarantee is None:
            return labels.after(silo.labels, moved, private=False)
        released = {Role.STATS} if silo.guarantee.releases.statistics else frozenset[Role]()
        return labels.after(silo.labels, moved - labels.STILL, private=True, released=released)


def received_metrics(trainer: Trainer, silo: Silo, state: State, round: int) -> Mapping[str, float]:
    """
    Return the metrics, on validation rows, of the model that the silo would use if training had just ended; of a
    private silo what its guarantee releases, with noise.
    """
    val = silo.data.val
    if silo.guarantee is not None:
        if silo.guarantee.releases.accuracy is None:
            return {}
        return private.noisy_accuracy(trainer.scores(state, val.x, silo.data), silo, round)
    if not len(val):
        return {}
    if trainer.method.fits_statistics_each_round:
        state = trainer.adapt(state, silo.data.train.x, silo.data.width)
    return quick(trainer.scores(state, val.x, silo.data), val.y)
