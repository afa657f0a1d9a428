"""The training loop: a net, an objective and an optimiser take steps on a silo's batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl._util.randomness import seed_layers, torch_generator
from fedtl.messages import Task
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import Batch, Forward, PerExample, mean_loss
from fedtl.methods.optimizers import OPTIMIZERS, rate
from fedtl.models import precision
from fedtl.models.net import Net
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.training.batches import draw_batches, make_batch
from fedtl.training.silo import Silo


@dataclass(frozen=True)
class TrainingConfig:
    """
    The ``[train]`` settings. ``freeze``: that many first stages of the body do not move; the statistics of their norms
    still follow the silo's inputs.
    """

    optimizer: str = "sgd"
    lr: float = 0.05
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 0.0
    body_lr: float = 1.0
    batch_size: int = 32
    epochs: int = 1
    freeze: int = 0


@dataclass(frozen=True)
class Loop:
    """
    How nets are trained: by one method, with these settings, on one device. ``roles``: of every tensor; ``frozen``: the
    parameters that never move.
    """

    method: Method
    training: TrainingConfig
    roles: Mapping[str, Role]
    frozen: frozenset[str]
    device: torch.device
    dtype: str

    def run(self, net: Net, phase: Phase, silo: Silo, task: Task, number: int, received: State) -> None:
        """Train the net in one phase. ``number``: of the phase; batches and layers draw from it. ``received``: the shared tensors."""
        generator = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
        seed_layers(generator.initial_seed(), self.device)
        self.prepare(net, phase)
        optimizer = self.optimizer(net, task)
        steps = list(self.batches(silo, phase, generator))
        for step, (rows, target_rows) in enumerate(steps):
            batch = make_batch(silo.data, rows, target_rows, self.device)
            optimizer.zero_grad(set_to_none=True)
            self.loss(net, batch, progress(task, step, len(steps))).backward()
            self.add_weight_gradients(net, received)
            optimizer.step()

    def batches(
        self, silo: Silo, phase: Phase, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the rows of each batch of a phase, as ``draw_batches``."""
        epochs = self.training.epochs if phase.epochs is None else phase.epochs
        return draw_batches(silo.data, epochs, self.training.batch_size, generator, self.method.needs_target)

    def movable(self, roles: frozenset[Role]) -> list[str]:
        """Return the names of the tensors with these roles, without the frozen parameters."""
        return [name for name, role in self.roles.items() if role in roles and name not in self.frozen]

    def prepare(self, net: Net, phase: Phase) -> None:
        """Set the net to training: the phase's parameters move and nothing else; norms whose statistics do not move use them."""
        net.train()
        for name, weight in net.named_parameters():
            weight.requires_grad_(self.roles[name] in phase.train and name not in self.frozen)
        for path, module in net.named_modules():
            buffers = {self.roles.get(f"{path}.{name}") for name, _ in module.named_buffers(recurse=False)}
            if Role.STATS in buffers and Role.STATS not in phase.train:
                module.train(False)

    def optimizer(self, net: Net, task: Task) -> Optimizer:
        """Return a new optimiser of what moves, with this round's learning rate; the body may have a rate of its own."""
        settings = self.training
        lr = settings.lr * rate(settings.schedule, task.round, task.rounds)
        body: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, weight in net.named_parameters():
            if weight.requires_grad:
                (others if name.startswith(("head.", "aux.")) else body).append(weight)
        if settings.body_lr == 1:
            body, others = [], body + others
        groups = [{"params": body, "lr": lr * settings.body_lr}, {"params": others, "lr": lr}]
        extra = {"momentum": settings.momentum} if settings.optimizer == "sgd" else {}
        make = OPTIMIZERS[settings.optimizer]
        moved = [group for group in groups if group["params"]]
        # All tensors of a step at once; torch's fused kernels are two and a half times slower on large nets on a CPU.
        return make(moved, lr=lr, weight_decay=settings.weight_decay, foreach=True, **extra)

    def forward(self, net: Net, batch: Batch, progress: float) -> Forward:
        """Return one pass of the net over a batch."""
        with precision.autocast_for(self.dtype, self.device):
            features = net.body(batch.x)
            scores = net.head(features)
        features, scores = precision.to_float32(features), precision.to_float32(scores)
        flat = features.flatten(2).mean(2) if features.dim() > 2 else features
        return Forward(batch, flat, scores, net.aux, progress)

    def loss(self, net: Net, batch: Batch, progress: float) -> Tensor:
        """Return the objective on a batch, a scalar; terms on weights are not in it (``add_weight_gradients``)."""
        out = self.forward(net, batch, progress)
        values = [
            mean_loss(term, out) if isinstance(term, PerExample) else term.loss(out)
            for term in self.method.losses
        ]
        return torch.stack(values).sum()

    def example_losses(self, net: Net, batch: Batch, progress: float) -> Tensor:
        """Return what each example adds to the loss [B]."""
        out = self.forward(net, batch, progress)
        terms = [term for term in self.method.losses if isinstance(term, PerExample)]
        return torch.stack([torch.where(term.counts(out), term.losses(out), 0.0) for term in terms]).sum(0)

    def add_weight_gradients(self, net: Net, received: State) -> None:
        """Add to each gradient what the terms on weights give; without ``received`` tensors, nothing."""
        for name, weight in net.named_parameters() if self.method.pulls and received else ():
            if weight.grad is None:
                continue
            for term in self.method.pulls:
                if (gradient := term.gradient(name, weight.detach(), received)) is not None:
                    weight.grad.add_(gradient)


def progress(task: Task, step: int, steps: int) -> float:
    """Return how much of the whole training is done before a step of this round's phase, from 0 to 1."""
    return (min(task.round, task.rounds) - 1 + step / steps) / task.rounds
