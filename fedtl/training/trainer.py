"""
One institution's side of a round: the one training loop.

Simulation, deployment and audit all call ``Trainer.fit``. It has no way to a silo's test rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl._util.labels import NO_LABEL
from fedtl._util.randomness import seed_layers, torch_generator
from fedtl.data.dataset import SiloDataset
from fedtl.data.synthetic import synthetic_like
from fedtl.errors import ConfigError, SiloFailed
from fedtl.messages import Task, Update
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import Batch, Forward, PerExample, mean_loss
from fedtl.methods.optimizers import OPTIMIZERS, rate
from fedtl.models import precision
from fedtl.models.net import ModelSpec, Net, stages
from fedtl.models.norms import adabn_statistics
from fedtl.models.roles import Partition, Role, roles
from fedtl.models.state import State, copy_state, difference, first_not_finite
from fedtl.privacy import dp_adabn as statistics
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy import taint as labels
from fedtl.privacy.canaries import CanaryLayer
from fedtl.privacy.charge import once
from fedtl.privacy.dp_accuracy import noisy_mean
from fedtl.privacy.guarantee import PrivacyGuarantee, StatisticsRelease
from fedtl.privacy.per_sample import clipping as gradients
from fedtl.privacy.per_sample import independence as samplewise
from fedtl.training import metrics
from fedtl.training.silo import Silo

ROWS_AT_ONCE = 256  # in evaluation and adaptation; fixed, so that results do not depend on a setting
STRANGERS = 8

PrivatePhaseKey = tuple[
    int, int, str
]  # of private training: the phase's number, the head's width, the promise's unit


@dataclass(frozen=True)
class TrainingConfig:
    """The ``[train]`` settings, and the first ``freeze`` stages of the body, whose parameters do not move;
    their statistics go on following the silo's inputs."""

    optimizer: str = "sgd"
    lr: float = 0.05
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 0.0
    body_lr: float = 1.0
    batch_size: int = 32
    epochs: int = 1
    freeze: int = 0


class Trainer:
    """
    What a process has once, however many silos it trains: the model on its device, the method and the settings.

    ``start`` replaces the blueprint's first weights where it has a tensor of the same name and shape. ``dtype``
    is one of ``precision.DTYPES``. Raises ConfigError where the device has no such arithmetic.
    """

    def __init__(
        self,
        blueprint: ModelSpec,
        method: Method,
        training: TrainingConfig,
        device: str = "cpu",
        start: State | None = None,
        dtype: str = "float32",
    ) -> None:
        self.method, self.training, self.device, self.dtype = method, training, torch.device(device), dtype
        precision.set_precision(dtype, self.device)
        self._blueprint, self._start = blueprint, start or {}
        self._body = {
            f"body.{name}": tensor for name, tensor in copy_state(blueprint.body.state_dict()).items()
        }
        self._nets: dict[int, Net] = {}
        self._fast: dict[PrivatePhaseKey, bool] = {}  # whether book-keeping was proven there
        self.partition = Partition(roles(self.net(1)), method.shared)
        self._frozen = frozenset(
            f"body.{name}" for stage in stages(blueprint.body)[: training.freeze] for name in stage
        )

    def net(self, width: int) -> Net:
        """The net with a head of this width; all of them share the body."""
        if width not in self._nets:
            parts = (term.modules for term in self.method.losses if isinstance(term, PerExample))
            net = self._blueprint.net(width, parts).to(self.device)
            self._nets[width] = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._nets[width]

    def initial(self, width: int) -> State:
        """The whole state before training: the same for every silo with a head of this width, in every room."""
        parts = (term.modules for term in self.method.losses if isinstance(term, PerExample))
        fresh = copy_state(self._blueprint.net(width, parts).state_dict()) | self._body
        given = {name: tensor for name, tensor in self._start.items() if fresh[name].shape == tensor.shape}
        return copy_state(fresh | given)

    def fit(self, silo: Silo, task: Task) -> Update:
        """
        Train on the silo's data from the task's shared tensors; changes ``silo.local`` and its labels, and that only
        when all went well. The metrics are those of ``validate_received``, before it trains.

        With a promise the round is charged first, and nothing but noisy tensors, and a noisy accuracy if that was
        promised, is in the update.

        Raises SiloFailed when training left a value that is not finite, or when the promise allows no such
        round, and Refused where the silo's own tensors must not go into a private round. Raises ConfigError where
        records do not stay apart in the model: nothing is charged for that.
        """
        if silo.guarantee is None:
            update, local = self._round(silo, task)
        else:
            labels.check(silo.labels, {name: self.partition.roles[name] for name in silo.local}, silo.name)
            self._prove(silo, silo.guarantee, task)
            update, local = once(silo.guarantee, silo.name, task, partial(self._round, silo, task))
        silo.local, silo.labels = local, self._labels_after(silo)
        return update

    def fit_unaccounted(self, silo: Silo, task: Task) -> Update:
        """
        A private round as ``fit`` does it, for a model of an attacker's own: with the same samples, clip and noise,
        but charged to nobody, and with the net looked at once a bench instead of in each round. Never for a
        release.

        Raises SiloFailed and ConfigError as ``fit`` does, and ValueError for a silo without a promise.
        """
        if silo.guarantee is None:
            raise ValueError(f"{silo.name} promises nothing; fit it")
        if not self._stretches(silo.data, silo.guarantee).keys() <= self._fast.keys():
            self._prove(silo, silo.guarantee, task)
        first = silo.labels.get(Role.STATS) is not labels.Label.RELEASED
        update, silo.local = self._round(silo, task, first)
        silo.labels = self._labels_after(silo)
        return update

    @property
    def trained(self) -> frozenset[Role]:
        """The roles that a round moves."""
        return frozenset().union(*(phase.train for phase in self.method.phases), {Role.COUNT})

    @property
    def moved(self) -> frozenset[Role]:
        """The local ones among them."""
        return self.trained - self.method.shared

    @property
    def settled(self) -> frozenset[Role]:
        """The roles that ``settle`` fits to the silo's own rows."""
        last = self.method.personalise
        fitted = last.phase.train if last.epochs else frozenset()
        return fitted | ({Role.STATS} if self.method.fits_received_statistics else frozenset())

    def moves(self, roles: frozenset[Role]) -> list[str]:
        """The tensors that move where these roles do: all of them but those of frozen stages."""
        return [
            name for name, role in self.partition.roles.items() if role in roles and name not in self._frozen
        ]

    def _labels_after(self, silo: Silo) -> labels.Labels:
        """What the silo keeps owes its values to, after one more round."""
        if silo.guarantee is None:
            return labels.after(silo.labels, self.moved, private=False)
        released = {Role.STATS} if silo.guarantee.refresh else frozenset[Role]()
        return labels.after(silo.labels, self.moved - labels.STILL, private=True, released=released)

    def _round(self, silo: Silo, task: Task, first: bool = False) -> tuple[Update, State]:
        """The update and the silo's new local state. ``first``: of a private study, with its statistics."""
        state = self.partition.join(task.shared, silo.local)
        measured = {} if silo.guarantee else self.validate_received(silo, state)
        net = self.load(silo, state)
        metrics = self._released(net, silo, task.round) if silo.guarantee else measured
        received = {name: tensor.to(self.device) for name, tensor in task.shared.items()}
        if first and silo.guarantee and silo.guarantee.refresh:
            self._refresh(net, silo, silo.guarantee, silo.guarantee.refresh)
        for number, phase in enumerate(self.method.phases):
            if silo.guarantee is None:
                self._phase(net, phase, silo, task, number, received)
            else:
                self._private_phase(net, phase, silo, task, number, received)
        state = net.state_dict()
        if broken := first_not_finite(state):
            raise SiloFailed(
                f"{silo.name}: {broken} is not finite after round {task.round}; a lower train.lr may help"
            )
        shared, local = self.partition.cut(state)
        delta = difference(copy_state(shared), task.shared)
        # The number of rows is not in the promise to the server; every private silo counts alike.
        weight = 1.0 if silo.guarantee else float(len(silo.data.train))
        return Update(silo.name, task.round, delta, weight, metrics), copy_state(local)

    def settle(self, silo: Silo, task: Task) -> State:
        """
        The whole state that the silo uses itself once training is over: the shared tensors with its local ones, with
        exact statistics and personalised as the method says. Changes nothing in the silo.
        """
        state = self.partition.join(task.shared, silo.local)
        if self.method.fits_received_statistics:
            state = self.with_exact_statistics(silo, state)
        if self.method.personalise.epochs:
            net = self.load(silo, state)
            self._phase(net, self.method.personalise.phase, silo, task, len(self.method.phases), {})
            state = copy_state(net.state_dict())
            if self.method.fits_tuned_statistics:
                state = self.with_exact_statistics(silo, state)
        return copy_state(state)

    def with_exact_statistics(self, silo: Silo, state: State) -> State:
        """The state with the exact statistics (AdaBN) of the silo's training inputs."""
        return state | self.adapt(state, silo.data.train.x, silo.data.width)

    def train(self, silo: Silo, state: State, phase: Phase, task: Task) -> State:
        """Another stretch of training on the silo's rows, starting anywhere: for a head fitted afterwards."""
        net = self.load(silo, state)
        self._phase(net, phase, silo, task, len(self.method.phases) + 1, {})
        return copy_state(net.state_dict())

    def adapt(self, state: State, x: Tensor, width: int) -> State:
        """AdaBN's statistics of the body on inputs ``x``, to be laid over ``state``; {} for a model without."""
        net = self.net(width)
        net.load_state_dict(state)
        batches = (self.inputs(x[rows]) for rows in _in_batches(torch.arange(len(x)), ROWS_AT_ONCE))
        return copy_state(
            {f"body.{name}": tensor for name, tensor in adabn_statistics(net.body, batches).items()}
        )

    def scores(self, state: State, x: Tensor, data: SiloDataset) -> Tensor:
        """The model's outputs [N, width] on the CPU; for regression in the label's own unit."""
        net = self.net(data.width)
        net.load_state_dict(state)
        return self._scores(net, x, data)

    def load(self, silo: Silo, state: State) -> Net:
        """The net with the silo's head, holding ``state``."""
        net = self.net(silo.data.width)
        net.load_state_dict(state)
        return net

    def validate_received(self, silo: Silo, state: State) -> Mapping[str, float]:
        """The metrics on validation rows of the model that the silo would use if training had just ended."""
        if not len(silo.data.val):
            return {}
        fits = self.method.fits_statistics_each_round
        used = self.with_exact_statistics(silo, state) if fits else state
        return self.validate(self.load(silo, used), silo.data)

    def validate(self, net: Net, data: SiloDataset) -> Mapping[str, float]:
        """The metrics of the net as it stands on validation rows."""
        return metrics.quick(self._scores(net, data.val.x, data), data.val.y)

    def _released(self, net: Net, silo: Silo, number: int) -> Mapping[str, float]:
        """The metric that was promised, with its noise; {} where none was."""
        guarantee, val = silo.guarantee, silo.data.val
        if guarantee is None or guarantee.metric is None:
            return {}
        right = self._scores(net, val.x, silo.data).argmax(1) == val.y
        units = None if guarantee.unit == "record" else val.units
        noise = guarantee.random("metric", silo.name, number)
        return {"accuracy": noisy_mean(right, units, guarantee.metric, noise)}

    @torch.no_grad()
    def _scores(self, net: Net, x: Tensor, data: SiloDataset) -> Tensor:
        net.eval()
        with precision.autocast_for(self.dtype, self.device):
            chunks = [net(self.inputs(part)).float().cpu() for part in x.split(ROWS_AT_ONCE) if len(part)]
        scores = torch.cat(chunks) if chunks else torch.empty(0, data.width)
        return scores if data.classes else scores * data.y_std + data.y_mean

    def _phase(self, net: Net, phase: Phase, silo: Silo, task: Task, number: int, received: State) -> None:
        generator = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
        seed_layers(generator.initial_seed(), self.device)
        self.unfreeze(net, phase)
        optimizer = self.optimizer(net, task)
        epochs = self.training.epochs if phase.epochs is None else phase.epochs
        steps = list(self.batches(silo.data, epochs, generator))
        for step, (rows, target_rows) in enumerate(steps):
            batch = self._batch(silo.data, rows, target_rows)
            progress = (min(task.round, task.rounds) - 1 + step / len(steps)) / task.rounds
            self._step(net, batch, optimizer, received, progress)

    def _step(self, net: Net, batch: Batch, optimizer: Optimizer, received: State, progress: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        out = self._forward(net, batch, progress)
        loss = torch.stack(
            [
                mean_loss(term, out) if isinstance(term, PerExample) else term.loss(out)
                for term in self.method.losses
            ]
        ).sum()
        loss.backward()
        self._pull(net, received)
        optimizer.step()

    def _forward(self, net: Net, batch: Batch, progress: float) -> Forward:
        with precision.autocast_for(self.dtype, self.device):
            features = net.body(batch.x)
            scores = net.head(features)
        features, scores = precision.to_float32(features), precision.to_float32(scores)
        flat = features.flatten(2).mean(2) if features.dim() > 2 else features
        return Forward(batch, flat, scores, net.aux, progress)

    def _pull(self, net: Net, received: State) -> None:
        """The terms that see weights alone act on the gradient that is there."""
        for name, weight in net.named_parameters() if self.method.pulls and received else ():
            if weight.grad is None:
                continue
            for pull in self.method.pulls:
                if (gradient := pull.gradient(name, weight.detach(), received)) is not None:
                    weight.grad.add_(gradient)

    def _stretches(self, data: SiloDataset, guarantee: PrivacyGuarantee) -> dict[PrivatePhaseKey, Phase]:
        """The phases in which this silo takes private steps."""
        return {
            (number, data.width, guarantee.unit): phase
            for number, phase in enumerate(self.method.phases)
            if guarantee.steps[number]
        }

    def _prove(self, silo: Silo, guarantee: PrivacyGuarantee, task: Task) -> None:
        """
        Ask of every private phase to come whether records stay apart in it, and, the first time, how their
        gradients are taken. Of rows that nobody has, so that the answer says nothing about the silo's and comes
        before any charge.

        Raises ConfigError and SiloFailed, which name the silo.
        """
        net = self.load(silo, self.partition.join(task.shared, silo.local))
        strangers = synthetic_like(silo.data, STRANGERS)
        batch = self._batch(strangers, torch.arange(len(strangers.train)), None)
        try:
            for stretch, phase in self._stretches(silo.data, guarantee).items():
                self.unfreeze(net, phase)
                samplewise.check_examples_independent(net, batch, lambda _, rows: self._losses(net, rows))
                if stretch not in self._fast:
                    side = self._sidecar(net, self.optimizer(net, task), guarantee)
                    trial, losses = side.trial(len(strangers.train)), self._losses_of(net, side, strangers)
                    several = guarantee.unit != "record"
                    self._fast[stretch] = gradients.proven(side.model, trial, losses, guarantee.clip, several)
        except (ConfigError, SiloFailed) as error:
            raise type(error)(f"{silo.name}: {error}") from error

    def _private_phase(
        self, net: Net, phase: Phase, silo: Silo, task: Task, number: int, received: State
    ) -> None:
        """As ``_phase``, by DP-SGD: Poisson samples, and as many steps as promised, whatever they hold."""
        guarantee = silo.guarantee
        assert guarantee is not None
        if not guarantee.steps[number]:
            return
        self.unfreeze(net, phase)
        optimizer = self.optimizer(net, task)
        side = self._sidecar(net, optimizer, guarantee)
        losses = self._losses_of(net, side, silo.data)
        units = None if guarantee.unit == "record" else silo.data.train.units
        place = (silo.name, task.round, number)
        private = mechanism.Mechanism(
            side.model,
            optimizer,
            guarantee.clip,
            guarantee.noise_multiplier,
            guarantee.expected_batch,
            guarantee.random("noise", *place),
            self._fast[number, silo.data.width, guarantee.unit],
            ROWS_AT_ONCE,
        )
        draw = guarantee.random("sample", *place)
        layers = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
        seed_layers(layers.initial_seed(), self.device)
        pull = partial(self._pull, net, received)
        for _ in range(guarantee.steps[number]):
            drawn = mechanism.poisson(side.count, guarantee.sample_rate, draw)
            rows, theirs = _rows_of(drawn, units, guarantee.records, len(silo.data.train))
            look = side.beside(rows, len(silo.data.train), guarantee.expected_batch, pull)
            private.step(rows, losses, theirs, beside=look)
        side.keep(task.round, number)

    def _sidecar(self, net: Net, optimizer: Optimizer, guarantee: PrivacyGuarantee) -> CanaryLayer:
        return CanaryLayer(net, optimizer, guarantee.records, guarantee.clip, guarantee.canaries)

    def _losses_of(
        self, net: Net, side: CanaryLayer, data: SiloDataset
    ) -> Callable[[nn.Module, Tensor], Tensor]:
        """The losses [B] of rows of ``data``, and of the canaries that are numbered after them."""
        of_rows = partial(self._batch, data, target_rows=None)
        return side.losses(len(data.train), of_rows, partial(self._losses, net))

    def _losses(self, net: Net, batch: Batch) -> Tensor:
        """[B]: what each example adds to the loss."""
        out = self._forward(net, batch, 0.0)
        terms = [term for term in self.method.losses if isinstance(term, PerExample)]
        return torch.stack([torch.where(term.counts(out), term.losses(out), 0.0) for term in terms]).sum(0)

    def _refresh(self, net: Net, silo: Silo, guarantee: PrivacyGuarantee, its: StatisticsRelease) -> None:
        """DP-AdaBN on the body, as promised."""
        net.eval()
        train = silo.data.train
        units = None if guarantee.unit == "record" else train.units

        def rows() -> Iterator[tuple[Tensor, Tensor | None]]:
            for part in torch.arange(len(train)).split(ROWS_AT_ONCE):
                yield self.inputs(train.x[part]), None if units is None else units[part]

        noise = guarantee.random("statistics", silo.name)
        statistics.refresh(net.body, rows, its.release, noise, its.layers, guarantee.canaries)

    def unfreeze(self, net: Net, phase: Phase) -> None:
        """Make ready for training: what the phase trains will move, and nothing else."""
        net.train()
        for name, weight in net.named_parameters():
            weight.requires_grad_(self.partition.roles[name] in phase.train and name not in self._frozen)
        for path, module in net.named_modules():
            owned = {
                self.partition.roles.get(f"{path}.{name}") for name, _ in module.named_buffers(recurse=False)
            }
            if Role.STATS in owned and Role.STATS not in phase.train:
                module.train(False)

    def optimizer(self, net: Net, task: Task) -> Optimizer:
        """A fresh optimiser of what moves, with this round's learning rate; the body has a rate of its own."""
        settings = self.training
        lr = settings.lr * rate(settings.schedule, task.round, task.rounds)
        moving = [(name, weight) for name, weight in net.named_parameters() if weight.requires_grad]
        fast: list[nn.Parameter] = []
        slow: list[nn.Parameter] = []
        for name, weight in moving:
            (fast if name.startswith(("head.", "aux.")) else slow).append(weight)
        if settings.body_lr == 1:
            slow, fast = [], slow + fast
        groups = [{"params": slow, "lr": lr * settings.body_lr}, {"params": fast, "lr": lr}]
        extra = {"momentum": settings.momentum} if settings.optimizer == "sgd" else {}
        make = OPTIMIZERS[settings.optimizer]
        moved = [group for group in groups if group["params"]]
        # All tensors of a step at once; torch's fused kernels are two and a half times slower on large nets on a CPU.
        return make(moved, lr=lr, weight_decay=settings.weight_decay, foreach=True, **extra)

    def batches(
        self, data: SiloDataset, epochs: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The rows of each batch: the silo's own, and, where the objective asks, as many of its second domain."""
        pool = len(data.target) if data.target is not None and self.method.needs_target else 0
        for _ in range(epochs):
            shuffled = torch.randperm(len(data.train), generator=generator)
            for rows in _in_batches(shuffled, self.training.batch_size):
                yield rows, torch.randint(pool, (len(rows),), generator=generator) if pool else None

    def _batch(self, data: SiloDataset, rows: Tensor, target_rows: Tensor | None) -> Batch:
        x, y = data.train.x[rows], data.train.y[rows]
        if not data.classes:
            y = (y - data.y_mean) / data.y_std
        domain = torch.zeros(len(rows))
        if target_rows is not None and data.target is not None:
            x = torch.cat([x, data.target[target_rows]])
            y = torch.cat(
                [y, torch.full((len(target_rows),), NO_LABEL if data.classes else torch.nan, dtype=y.dtype)]
            )
            domain = torch.cat([domain, torch.ones(len(target_rows))])
        return Batch(self.inputs(x), y.to(self.device), domain.to(self.device))

    def inputs(self, x: Tensor) -> Tensor:
        """Rows as the net takes them: on the device as floats, pixels as -1..1, images in the memory format that convolutions are fast in."""
        x = x.to(self.device, non_blocking=True)
        if x.dtype == torch.uint8:
            x = x.float().div_(127.5).sub_(1)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _rows_of(drawn: Tensor, units: Tensor | None, members: int, rows: int) -> tuple[Tensor, Tensor | None]:
    """The rows of the sampled units, and whose each is (None: a unit each); canaries are numbered after all others."""
    if units is None:
        return drawn, None
    own, canaries = torch.isin(units, drawn).nonzero().flatten(), drawn[drawn >= members]
    return torch.cat([own, canaries - members + rows]), torch.cat([units[own], canaries])


def _in_batches(rows: Tensor, size: int) -> list[Tensor]:
    """Batches in order; a last one of a single row joins the one before, for BatchNorm has no variance of one."""
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
