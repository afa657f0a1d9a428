"""The training loop: a net, an objective and an optimiser take steps on a silo's batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl._util.randomness import address, seed_layers, torch_generator
from fedtl.errors import ConfigError
from fedtl.messages import Task
from fedtl.methods.base import Method, Phase, Pick, terms_of, trained_roles
from fedtl.methods.losses import (
    Batch,
    Forward,
    PerBatch,
    PerExample,
    losses_among,
    mean_loss,
)
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.methods.sets import MODEL
from fedtl.models.net import Net
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.training.after_step import after_step, terms_on_weights
from fedtl.training.augment import Augmenter, augmenter
from fedtl.training.batches import ROWS_AT_ONCE, draw_batches, learns_from, make_batch, on_device
from fedtl.training.config import TrainingConfig
from fedtl.training.recorded import gradient_steps, tensors_of
from fedtl.training.sgd import Sgd, Stepper
from fedtl.training.silo import Silo
from fedtl.training.weights import Weights, copied

Moving = Sequence[
    tuple[str, nn.Parameter]
]  # the parameters that an optimiser moves, by their names in the model


@dataclass(frozen=True)
class Loop:
    """
    How nets are trained: by one method, with these settings, on one device. ``roles``: of the model's tensors;
    ``frozen``: the parameters that never move.
    """

    method: Method
    training: TrainingConfig
    roles: Mapping[str, Role]
    frozen: frozenset[str]
    device: torch.device

    def run(self, weights: Weights, phase: Phase, silo: Silo, task: Task, number: int) -> int:
        """
        Train in one phase, and return the number of steps: none where the model has no parameter that the phase moves.
        ``number``: of the phase; batches and layers draw from it.
        """
        generator = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
        seed_layers(generator.initial_seed(), self.device)
        steps = (
            list(self.batches(silo, phase, generator))
            if learns_from(terms_of(self.method, phase), silo.data)
            else []
        )
        if phase.pick is not None:
            phase = self._picked(weights, phase, phase.pick, silo, task)
        at = (task.seed, task.round, silo.name, number)
        change = augmenter(self.training.augment, silo.data.train, at, silo.secret)
        taken = self._train(weights, phase, silo, task, steps, change) if steps else 0
        self.end(weights, phase)
        return taken

    def _train(
        self,
        weights: Weights,
        phase: Phase,
        silo: Silo,
        task: Task,
        steps: Sequence[tuple[Tensor, Tensor | None]],
        change: Augmenter | None,
    ) -> int:
        if phase.through is None:
            weights.hold(phase.on[0])
        self.prepare(weights.net, phase)
        moving = moving_in(weights.net) if phase.through is None else self._moving_outside_net(weights, phase)
        if not moving:
            return 0
        plain = TrainingConfig(lr=phase.lr or 0.0, momentum=0.0)
        loop = self if phase.lr is None else replace(self, training=plain)
        stepper, clip = plain_stepper(loop, moving, task), loop.training.clip
        data = silo.data if change else on_device(silo.data, self.device)  # images are changed on the CPU
        terms = losses_among(terms_of(self.method, phase))
        gradients = gradient_steps(weights, phase, terms, [weight for _, weight in moving], data.task)
        for step, (rows, target_rows) in enumerate(steps):
            changed = None if change is None else partial(change, step=step)
            batch = make_batch(data, rows, target_rows, self.device, changed)
            stepper.zero_grad()
            loss = partial(self._loss, weights, phase, batch, progress(task, step, len(steps)))
            gradients.backward(tensors_of(batch), loss)
            with torch.inference_mode():  # gradients of recorded steps can be changed in it alone
                self.add_weight_gradients(weights, phase, moving)
                if clip is not None:
                    nn.utils.clip_grad_norm_([weight for _, weight in moving], clip)
                stepper.step()
                after_step(self, weights, phase, moving, task)
        return len(steps)

    def _picked(self, weights: Weights, phase: Phase, pick: Pick, silo: Silo, task: Task) -> Phase:
        """Return the phase with only the set that the silo picks."""
        if task.round <= pick.at_random * task.rounds:
            best = address("pick", task.seed, silo.name, key=silo.secret) % len(phase.on)
        else:
            best = int(self._training_losses(weights, phase, silo).nan_to_num(nan=torch.inf).argmin())
        weights.put(pick.slot, {"of": torch.eye(len(phase.on), device=self.device)[best]})
        return replace(phase, on=(phase.on[best],), pick=None)

    def _training_losses(self, weights: Weights, phase: Phase, silo: Silo) -> Tensor:
        """Return the sum of the losses on all training rows by each set of ``on``."""
        terms = [term for term in terms_of(self.method, phase) if isinstance(term, PerExample)]
        sums = torch.zeros(len(phase.on), device=self.device)
        for rows in torch.arange(len(silo.data.train)).split(ROWS_AT_ONCE):
            batch = make_batch(silo.data, rows, None, self.device)
            for number, name in enumerate(phase.on):
                out = Forward(batch, weights.by(name), 0.0, weights.summaries)
                values = (torch.where(term.counts(out), term.losses(out), 0.0).sum() for term in terms)
                sums[number] += torch.stack(list(values)).sum()
        return sums

    def batches(
        self, silo: Silo, phase: Phase, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the rows of each batch of a phase, as ``draw_batches``."""
        epochs = self.training.epochs if phase.epochs is None else phase.epochs
        terms = losses_among(terms_of(self.method, phase))
        second = any(term.needs_target or term.source_free for term in terms)
        training = self.training
        labels = silo.data.train.y if training.balanced else None
        return draw_batches(silo.data, epochs, training.batch_size, generator, second, phase.all_rows, labels)

    def movable(self, roles: frozenset[Role]) -> list[str]:
        """Return the names of the model's tensors with these roles, without the frozen parameters."""
        return [name for name, role in self.roles.items() if role in roles and name not in self.frozen]

    def prepare(self, net: Net, phase: Phase) -> None:
        """
        Set the net to training mode: only the phase's parameters are trained, and norms with fixed statistics use these.
        """
        net.train()
        for name, weight in net.named_parameters():
            deep = phase.unfrozen is not None and self.training.depths.get(name, 0) > phase.unfrozen
            weight.requires_grad_(self.roles[name] in phase.train and name not in self.frozen and not deep)
        for path, module in net.named_modules():
            buffers = {self.roles.get(f"{path}.{name}") for name, _ in module.named_buffers(recurse=False)}
            if Role.STATS in buffers and Role.STATS not in phase.train:
                module.train(False)

    def optimizer(self, moving: Moving, task: Task) -> Optimizer:
        """Return a new optimiser of these parameters, with this round's learning rates; private steps add noise in it."""
        settings, groups = self.training, _by_rate(self.training, moving, task)
        extra = {"momentum": settings.momentum} if settings.optimizer == "sgd" else {}
        # All tensors of a step at once; torch's fused kernels are two and a half times slower on large nets on a CPU.
        return OPTIMIZERS[settings.optimizer](
            [{"params": group, "lr": lr} for lr, group in groups.items()],
            lr=settings.lr * settings.rate(task),
            weight_decay=settings.weight_decay,
            foreach=True,
            **extra,
        )

    def _forward(self, weights: Weights, phase: Phase, batch: Batch, progress: float) -> Forward:
        """Return the pass over a batch by the weights of this phase."""
        terms = losses_among(terms_of(self.method, phase))
        layers = tuple(dict.fromkeys(path for term in terms for path in term.needs_layers))
        through = None if phase.through is None else self._through(weights, phase)
        return Forward(batch, weights.model(layers, through), progress, weights.summaries)

    def _loss(self, weights: Weights, phase: Phase, batch: Batch, progress: float) -> Tensor:
        """Return the objective on a batch, a scalar; terms on weights are not in it (``add_weight_gradients``)."""
        out = self._forward(weights, phase, batch, progress)
        values = [
            mean_loss(term, out) if isinstance(term, PerExample) else term.loss(out)
            for term in terms_of(self.method, phase)
            if isinstance(term, PerExample | PerBatch)
        ]
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    def example_losses(self, weights: Weights, phase: Phase, batch: Batch, progress: float) -> Tensor:
        """Return what each example adds to the loss [B]. Raises ConfigError for losses of another shape, and for none."""
        out = self._forward(weights, phase, batch, progress)
        terms = [term for term in terms_of(self.method, phase) if isinstance(term, PerExample)]
        values = [torch.where(term.counts(out), term.losses(out), 0.0) for term in terms]
        if not values or any(one.shape != batch.y.shape[:1] for one in values):
            raise ConfigError(
                "with [privacy], each phase needs a loss on examples, and each such loss one value an example"
            )
        return torch.stack(values).sum(0)

    def add_weight_gradients(self, weights: Weights, phase: Phase, moving: Moving) -> None:
        """
        Add to each gradient what the terms on weights give, in a round; after the last one they do not act. They alone may
        move a term's own modules; any other weight that the loss does not reach stays as it is.
        """
        terms = terms_on_weights(self.method, weights, phase)
        for name, weight in moving if terms else ():
            if weight.grad is None and self.roles[name] is not Role.AUX:
                continue
            for term in terms:
                if (gradient := term.gradient(name, weight.detach(), weights.sets)) is not None:
                    weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)

    def end(self, weights: Weights, phase: Phase) -> None:
        """Copy what a phase trained back into its sets, and into ``phase.into``."""
        if phase.through is not None:
            for name in phase.on:
                weights.put(name, {key: tensor.detach() for key, tensor in weights.sets[name].items()})
        if phase.into is not None:
            with torch.no_grad():
                result = weights.sets[phase.on[0]] if phase.through is None else phase.through(weights.sets)
                weights.put(phase.into, copied(result))

    def _moving_outside_net(self, weights: Weights, phase: Phase) -> Moving:
        """Make parameters of the sets of ``phase.on``, in the sets themselves, and return them."""
        model = dict(weights.net.named_parameters())
        moving: list[tuple[str, nn.Parameter]] = []
        for name in phase.on:
            for key, tensor in weights.sets[name].items():
                of_model = key in model and model[key].requires_grad
                if of_model or (key not in self.roles and tensor.is_floating_point()):
                    moving.append((key, nn.Parameter(tensor.detach().clone())))
                    weights.sets[name][key] = moving[-1][1]
        return moving

    def _through(self, weights: Weights, phase: Phase) -> State:
        """
        Return the weights of the forward pass. ``through`` maps parameters; the buffers are those of the first set that
        moves, where it has them, and else copies, so that a pass changes no other set's.
        """
        assert phase.through is not None
        own, parameters = weights.sets[phase.on[0]], dict(weights.net.named_parameters())
        return {
            name: tensor if name in parameters else own.get(name, tensor.detach().clone())
            for name, tensor in phase.through(weights.sets).items()
        }


def plain_stepper(loop: Loop, moving: Moving, task: Task) -> Stepper:
    """Return what takes the steps of plain training, with this round's learning rates."""
    settings = loop.training
    if settings.optimizer == "sgd":
        return Sgd(_by_rate(settings, moving, task), settings.momentum, settings.weight_decay)
    return loop.optimizer(moving, task)


def _by_rate(settings: TrainingConfig, moving: Moving, task: Task) -> dict[float, list[nn.Parameter]]:
    groups = dict[float, list[nn.Parameter]]()
    for name, weight in sorted(moving, key=lambda one: one[0].startswith(("head.", "aux."))):
        groups.setdefault(settings.lr_of(name, task), []).append(weight)
    return groups


def changed_in_round(loop: Loop) -> list[str]:
    """
    Return the names of the model's tensors that a round changes: the frozen ones too where a phase gives the model all
    tensors of another set.
    """
    if any(phase.into == MODEL for phase in loop.method.phases):
        return list(loop.roles)
    return loop.movable(trained_roles(loop.method))


def moving_in(net: Net) -> Moving:
    """Return the net's parameters that require gradients."""
    return [(name, weight) for name, weight in net.named_parameters() if weight.requires_grad]


def progress(task: Task, step: int, steps: int) -> float:
    """Return how much of the whole training is done before a step of this round's phase, from 0 to 1."""
    return (min(task.round, task.rounds) - 1 + step / steps) / task.rounds
