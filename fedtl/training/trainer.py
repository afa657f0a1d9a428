"""
One silo's side of a round. Simulation, deployment and audit all call ``Trainer.fit``, which cannot reach test rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from fedtl.data.dataset import SiloDataset
from fedtl.errors import ConfigError, SiloFailed
from fedtl.messages import Task, Update
from fedtl.methods.base import Method, Phase, trains_on_all_rows
from fedtl.methods.sets import MODEL, RECEIVED, RESIDUAL, SHARED, SUMMARY, as_part, model_part, part
from fedtl.methods.wire import Encoding
from fedtl.models import precision
from fedtl.models.net import ModelSpec, Net
from fedtl.models.roles import Partition, Role, roles
from fedtl.models.state import State, copy_state, difference, first_not_finite
from fedtl.privacy import taint
from fedtl.privacy.charge import charged_round
from fedtl.privacy.guarantee import Releases
from fedtl.training import private
from fedtl.training.batches import learns_from
from fedtl.training.config import TrainingConfig
from fedtl.training.evaluate import exact_statistics, scores_of
from fedtl.training.extra import (
    before_round,
    end_slots,
    first_extra,
    partition_of,
    summaries_of,
    uses_exact_statistics,
    whole_state,
)
from fedtl.training.labels import labels_after_round
from fedtl.training.loop import Loop
from fedtl.training.nets import Cache, NetKey, PrivatePhase, Use, new_net
from fedtl.training.public_rows import trained_on
from fedtl.training.received import received_metrics
from fedtl.training.silo import Silo
from fedtl.training.staging import frozen_parameters, kept_by_cut, staged
from fedtl.training.weights import Weights, on_device, start_set

CPU = torch.device("cpu")
NO_RELEASES = Releases()


@dataclass(frozen=True, eq=False)
class OwnStart:
    """How a silo's own model begins where training together is private: the ordinary model, which needs no private norms."""

    spec: ModelSpec
    start: State = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Trainer:
    """
    What a process needs to train any silo: model, method and settings, which do not change. ``dataclasses.replace``
    makes another trainer with other settings; both use one ``cache``.

    ``start`` replaces the model's initial weights where a tensor has the same name and shape. ``alone``: how the model that a
    silo trains alone begins; None: as this one. ``public``: inputs [N, ...] that all may see. ``others``: the models
    of silos that have another one (``trainer_at``). ``dtype``: one of ``precision.DTYPES``. Raises ConfigError where the device
    cannot compute in it, or the method not with this optimiser.
    """

    spec: ModelSpec
    method: Method
    training: TrainingConfig
    device: torch.device = CPU
    start: State = field(default_factory=dict, repr=False)
    dtype: str = "float32"
    alone: OwnStart | None = None
    public: Tensor | None = field(default=None, repr=False)
    cache: Cache = field(default_factory=Cache, repr=False)
    partition: Partition = field(init=False, repr=False)
    encoding: Encoding = field(init=False, repr=False)
    loop: Loop = field(init=False, repr=False)
    others: Mapping[str, ModelSpec] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        precision.set_precision(self.dtype, self.device)
        if self.method.sgd_only and self.training.optimizer != "sgd":
            raise ConfigError(f'train.optimizer = {self.training.optimizer!r}: this method needs "sgd"')
        net = self.net(1)
        frozen = frozen_parameters(self.spec.body, self.training.freeze) | self.spec.frozen
        loop = Loop(self.method, staged(self.training, self.spec.body), roles(net), frozen, self.device)
        sizes = (self.spec.features, 1)
        extra = first_extra(self.method, copy_state(net.state_dict()), loop.roles, sizes, self.public)
        kept = kept_by_cut(self.method, self.spec.body) | self.spec.frozen
        object.__setattr__(self, "loop", loop)
        object.__setattr__(self, "partition", partition_of(self.method, loop.roles, extra, kept))
        object.__setattr__(self, "encoding", Encoding.of(self.method.wire, self.partition.roles))

    def net(self, width: int, use: Use = Use.TRAINING) -> Net:
        """Return the net with a head of ``width`` outputs; its weights are those of its last use."""
        return self.cache.net(self._net_key(width, use))

    def _net_key(self, width: int, use: Use) -> NetKey:
        return NetKey(self.spec, self.method.every_term, width, self.device, use)

    def _private_phases(self, silo: Silo) -> dict[int, PrivatePhase]:
        net = self._net_key(silo.data.width, Use.TRAINING)
        return private.private_phases(self.loop, silo, net, self.dtype)

    def initial(self, width: int) -> State:
        """
        Return every tensor before training, slots and summaries included: the same for each silo with a head of this
        width, in every process.
        """
        fresh = new_net(self.spec, self.method.every_term, width).state_dict()
        if (head_start := self.method.head_start) is not None:
            head = {name: tensor for name, tensor in fresh.items() if self.loop.roles[name] is Role.HEAD}
            fresh |= head_start(head)
        given = {
            name: tensor
            for name, tensor in self.start.items()
            if name in fresh and fresh[name].shape == tensor.shape
        }
        model = copy_state(fresh | given)
        return copy_state(model | self._first_extra(model, width))

    def _first_extra(self, model: State, width: int) -> State:
        return first_extra(self.method, model, self.loop.roles, (self.spec.features, width), self.public)

    def fit(self, silo: Silo, task: Task) -> Update:
        """
        Train on the silo's rows, from the task's shared tensors; the metrics are of the received model, before training.
        ``silo.local`` and ``silo.labels`` change only when nothing failed.

        With a privacy guarantee the round is charged first, and the update holds only noisy tensors and, where the
        guarantee has a metric, a noisy accuracy.

        Raises SiloFailed when a tensor is not finite after training, the guarantee has no such round or no loss is defined on
        the rows, Refused when a local tensor must not go into a private round, and ConfigError when the method or the model
        cannot be trained privately; none costs anything.
        """
        if not learns_from(self.method.losses, silo.data):
            raise SiloFailed(f"{silo.name}: no row has a label, and every loss of the method needs labels")
        if silo.guarantee is None:
            update, local = self._round(silo, task)
            # A layer may write to tensors that no phase trains, such as its own buffers.
            written = [name for name, one in local.items() if not torch.equal(one, silo.local[name])]
            silo.labels = taint.labels_after(silo.labels, written, private=False)
        else:
            known = taint.labels_by_tensor(
                silo.labels, {name: self.partition.roles[name] for name in silo.local}
            )
            taint.check_provenance(known, silo.local, silo.name)
            self._verify(silo, task)
            update, local = charged_round(silo.guarantee, silo.name, task, partial(self._round, silo, task))
        silo.local, silo.labels = local, labels_after_round(self, silo)
        return update

    def fit_unaccounted(self, silo: Silo, task: Task) -> Update:
        """
        Do the private round that ``fit`` does, without charging it: for an attacker's own models, never for a release.
        The model is verified once a process, not in each round.

        Raises SiloFailed and ConfigError as ``fit`` does, and ValueError for a silo without a guarantee.
        """
        if silo.guarantee is None:
            raise ValueError(f"{silo.name} has no privacy guarantee; call fit")
        if not set(self._private_phases(silo).values()) <= self.cache.gradient_methods.keys():
            self._verify(silo, task)
        first = taint.Label.RELEASED not in silo.labels.values()
        update, silo.local = self._round(silo, task, silo.guarantee.releases.in_round(first))
        silo.labels = labels_after_round(self, silo)
        return update

    def train(
        self,
        silo: Silo,
        state: State,
        phase: Phase,
        task: Task,
        number: int | None = None,
        lr: float | None = None,
        start: State | None = None,
    ) -> State:
        """
        Return the model of ``state`` after one more phase on the silo's rows, for what is fitted after the last round.
        ``number``: batches and layers draw from it. ``lr``: a learning rate; None: that of the round. ``start``: what
        terms call the starting point; None: they do not act. Slots that the state does not have are as before training.
        """
        model, width = model_part(state), silo.data.width
        extra = self._first_extra(model, width)
        weights = self._weights(extra | state, width)
        weights.sets |= start_set(self.method, start, self.device)
        number = len(self.method.phases) + 1 if number is None else number
        loop = self.loop
        if lr is not None:
            loop = replace(loop, training=replace(loop.training, lr=lr, schedule="constant"))
        loop.run(weights, phase, trained_on(phase, silo, self.public), task, number)
        return copy_state(weights.sets[MODEL])

    def scores(self, state: State, x: Tensor, data: SiloDataset) -> Tensor:
        """Return the outputs [N, width] of the model of ``state`` on the CPU; for regression in the label's own unit."""
        return scores_of(self._evaluated(state, data.width), x, data, self.device, self.dtype)

    def adapt(self, state: State, x: Tensor, width: int) -> State:
        """Return the model of ``state`` with AdaBN's exact statistics of inputs ``x``, where it has running statistics."""
        return model_part(state) | exact_statistics(self._evaluated(state, width), x, self.device)

    def _evaluated(self, state: State, width: int) -> Net:
        net = self.net(width, Use.EVALUATION)
        net.fill(model_part(state))
        return net

    def sets(self, state: State) -> dict[str, State]:
        """Return the model, the model as received and copies of the slots, on the device."""
        received = on_device(model_part(state), self.device)
        slots = {
            slot.name: {
                key: tensor.to(self.device, non_blocking=True, copy=True)
                for key, tensor in part(state, slot.name).items()
            }
            for slot in self.method.slots
        }
        return {MODEL: received, RECEIVED: received, **slots}

    def _weights(self, state: State, width: int, shared: State | None = None) -> Weights:
        """Return the sets of a state, with the model in the net. ``shared``: what was received, in a round."""
        sets = self.sets(state)
        if shared is not None:
            sets[SHARED] = {name: sets[RECEIVED][name] for name in model_part(shared)}
            sets |= start_set(self.method, partial(self.initial, width), self.device)
        summaries = on_device(part(state, SUMMARY), self.device)
        reference = partial(self.net, width, Use.EVALUATION)
        weights = Weights(self.net(width), reference, (self.device, self.dtype), sets, summaries)
        weights.hold(MODEL)
        return weights

    def _verify(self, silo: Silo, task: Task) -> None:
        state = self.partition.join(task.shared, silo.local)
        weights = self._weights(state, silo.data.width, task.shared)
        private.verify(
            self.loop, weights, silo, task, self._private_phases(silo), self.cache.gradient_methods
        )

    def _round(self, silo: Silo, task: Task, due: Releases = NO_RELEASES) -> tuple[Update, State]:
        """Return the update and the silo's new local tensors. ``due``: what a private round releases besides trained tensors."""
        state = self.partition.join(task.shared, silo.local)
        metrics = received_metrics(self, silo, task, state)
        weights = self._weights(state, silo.data.width, task.shared)
        before = before_round(self.method, weights)
        if silo.guarantee is None:
            counts = {
                number: self.loop.run(weights, phase, trained_on(phase, silo, self.public), task, number)
                for number, phase in enumerate(self.method.phases)
            }
        else:
            if due.statistics:
                private.release_statistics(self.loop, weights, silo, due.statistics)
            counts = dict(enumerate(silo.guarantee.training.steps))
            phases = self._private_phases(silo)
            gradients = {number: self.cache.gradient_methods[key] for number, key in phases.items()}
            private.train(self.loop, weights, silo, task, gradients)
        steps = [count for number, count in counts.items() if self.method.phases[number].trains_model]
        end_slots(self.loop, weights, before, task, steps)
        summaries = self._summaries(silo, task, weights, due)
        state = copy_state(whole_state(self.method, weights, summaries))
        if broken := first_not_finite(state):
            raise SiloFailed(
                f"{silo.name}: {broken} is not finite after round {task.round}; a lower train.lr may help"
            )
        shared, local = self.partition.cut(state)
        delta = difference(shared, task.shared)
        sent, residual = self.encoding.encode(delta, part(local, RESIDUAL))
        if broken := first_not_finite(residual):
            raise SiloFailed(
                f"{silo.name}: the residual of {broken} is not finite; a lower train.lr may help"
            )
        local |= as_part(RESIDUAL, residual)
        # The number of rows is not part of a private update, so every private silo has the same weight.
        rows = silo.data.rows_in_epoch(trains_on_all_rows(self.method))
        weight = 1.0 if silo.guarantee else float(rows)
        return Update(silo.name, task.round, sent, weight, metrics), copy_state(local)

    def _summaries(self, silo: Silo, task: Task, weights: Weights, due: Releases) -> State:
        """Return the method's summaries by the model as trained, of a private silo with noise."""
        if silo.guarantee is not None:
            return private.noisy_summaries(self.loop, weights, silo, task.round, due)
        exact = None
        if uses_exact_statistics(self.method):
            net = self._evaluated(weights.sets[MODEL], silo.data.width)
            exact = exact_statistics(net, silo.data.inputs, self.device)
        return summaries_of(self.loop, weights, silo.data, exact, self.public)


def trainer_at(trainer: Trainer, silo: str) -> Trainer:
    """Return the trainer of a silo: with the silo's own model, where it has another one."""
    spec = trainer.others.get(silo)
    return trainer if spec is None else replace(trainer, spec=spec, start={}, others={})
