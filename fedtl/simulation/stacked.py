"""
Several silos' training as one: every tensor of the model has a silo axis in front, and one pass trains them all.

For models and methods in which silos cannot meet inside a layer, a loss or an optimiser; ``refuse`` says which
are not. ``Trainer.fit`` says what a silo's result is; here it is the same within rounding.
"""

import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import zip_longest
from typing import Any, Self

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from fedtl._util.labels import NO_LABEL
from fedtl._util.randomness import torch_generator
from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError, FedTLError, SiloFailed
from fedtl.messages import Task, Update
from fedtl.methods.base import Phase
from fedtl.methods.losses import Batch, Computed, Forward, Pass, TaskLoss, mean_loss
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.models import precision
from fedtl.models.net import Net
from fedtl.models.state import State, copy, difference, not_finite
from fedtl.simulation.engine import Fit, Job
from fedtl.simulation.serial import Serial
from fedtl.training.batches import to_inputs
from fedtl.training.loop import moving_in
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer, labels_after_round, received_metrics

log = logging.getLogger(__name__)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (
    *NORMS,
    *(nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Identity),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
ELEMENTWISE = (optim.SGD, optim.Adam, optim.AdamW, optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.NAdam)


def refuse(trainer: Trainer) -> str | None:
    """Why this bench's silos cannot be trained in one stack, in one line; None if they can."""
    odd = _odd_setting(trainer) or _odd_module(trainer.net(1))
    return odd and f"{odd} cannot be trained for several silos in one stack; engine.stack = 1 is the way out"


def _odd_setting(trainer: Trainer) -> str | None:
    """A term in which silos would need more than rows and labels; an optimiser in which their tensors would meet."""
    method = trainer.method
    if method.every_term != (TaskLoss(),):
        return f"the objective {' + '.join(type(term).__name__ for term in method.every_term)}"
    if (
        method.slots
        or method.summaries
        or any(phase != Phase(phase.train, phase.epochs) for phase in method.phases)
    ):
        return "a method with slots, summaries or phases on other sets than the model"
    if OPTIMIZERS[trainer.training.optimizer] not in ELEMENTWISE:
        return f"train.optimizer = {trainer.training.optimizer!r}, whose step is not elementwise,"
    return None


def _odd_module(net: Net) -> str | None:
    """A layer in which rows may meet, or of which we do not know that they cannot."""
    for path, module in net.named_modules():
        its_name = f"{path} ({type(module).__name__})"
        if type(module) in NORMS:
            assert isinstance(module, NORMS)
            if not (module.affine and module.momentum is not None and module.track_running_stats):
                return f"{its_name} without scale, momentum or running statistics"
        elif type(module) not in LAYERS and not _only_contains(module):
            return its_name
    if len(list(net.parameters())) < len(list(net.named_parameters(remove_duplicate=False))):
        return "a weight that two layers share"
    return None


def _only_contains(module: nn.Module) -> bool:
    """Whether a module has no tensor of its own and leaves the work to those in it."""
    contains = next(module.children(), None) is not None or isinstance(module, nn.Sequential | nn.ModuleDict)
    return contains and not module._parameters and not module._buffers


class Stacked:
    """The engine that trains up to ``size`` silos at once; any other job it does one silo after another."""

    workers = 1

    def __init__(self, trainer: Trainer, size: int) -> None:
        if reason := refuse(trainer):
            raise ConfigError(reason)
        self.trainer, self._size = trainer, size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """As Engine.each, in the order of ``silos``."""
        if not isinstance(job, Fit):
            yield from Serial(self.trainer).each(job, silos)
            return
        chunk_of = {silo.name: chunk for chunk in _chunks(silos, self._size) for silo in chunk}
        done: dict[str, Any] = {}
        for silo in silos:
            if silo.name not in done:
                done |= self._fit(job, chunk_of[silo.name])
            yield silo.name, done.pop(silo.name)

    def _fit(self, job: Fit, silos: Sequence[Silo]) -> dict[str, Any]:
        """One after another where that is faster, and where the stack fails as a whole: it may be one silo's fault."""
        if len(silos) > 1 and not any(silo.guarantee for silo in silos):
            try:
                return fit(self.trainer, silos, job.task)
            except FedTLError:
                raise
            except Exception:
                names = ", ".join(silo.name for silo in silos)
                log.exception("%s cannot be trained in one stack; now one after another", names)
        return dict(Serial(self.trainer).each(job, silos))


def _chunks(silos: Sequence[Silo], size: int) -> Iterator[list[Silo]]:
    """
    Heads of one width only; the largest silo first, so that those that still train are the first of the stack.
    Neighbours stay together: at most ``size`` results a width wait for their turn.
    """
    for width in {silo.data.width for silo in silos}:
        group = [silo for silo in silos if silo.data.width == width]
        for start in range(0, len(group), size):
            yield sorted(group[start : start + size], key=lambda silo: len(silo.data.train), reverse=True)


def fit(trainer: Trainer, silos: Sequence[Silo], task: Task) -> dict[str, Update | SiloFailed]:
    """``Trainer.fit`` for silos with heads of one width, the largest first. One that fails keeps its ``local``."""
    states, metrics = [], []
    for silo in silos:
        states.append(trainer.partition.join(task.shared, silo.local))
        metrics.append(received_metrics(trainer, silo, task, states[-1]))
    net = _stack(trainer.net(silos[0].data.width), states)
    data = _gather(trainer, silos)
    for number, phase in enumerate(trainer.method.phases):
        _phase(trainer, net, phase, silos, data, task, number)
    trained = copy(net.state_dict())
    results: dict[str, Update | SiloFailed] = {}
    locals_: list[tuple[Silo, State]] = []
    for place, silo in enumerate(silos):
        state = {name: tensor[place] for name, tensor in trained.items()}
        if broken := not_finite(state):
            results[silo.name] = SiloFailed(
                f"{silo.name}: {broken} is not finite after round {task.round}; a lower train.lr may help"
            )
            continue
        shared, local = trainer.partition.split(state)
        locals_.append((silo, local))
        delta, weight = difference(shared, task.shared), float(len(silo.data.train))
        results[silo.name] = Update(silo.name, task.round, delta, weight, metrics[place])
    for silo, local in locals_:  # now that nothing can fail: whoever calls may want to train them again
        silo.local, silo.labels = local, labels_after_round(trainer, silo)
    return results


def _stack(net: Net, states: Sequence[State]) -> Net:
    """A copy of the net whose every tensor holds those of all silos, [K, ...]; its norms can leave out rows."""
    stack, device = deepcopy(net), next(net.parameters()).device
    for path, module in net.named_modules():
        if isinstance(module, NORMS):
            stack.set_submodule(path, _MaskedNorm(module))
    for name in states[0]:
        path, _, leaf = name.rpartition(".")
        owner = stack.get_submodule(path)
        tensor = torch.stack([state[name] for state in states]).to(device)
        setattr(owner, leaf, nn.Parameter(tensor) if leaf in owner._parameters else tensor)
    return stack


def _gather(trainer: Trainer, silos: Sequence[Silo]) -> Dataset:
    """All training rows on the device, x [K, N, ...] and y [K, N], short silos filled up; pixels stay bytes."""
    x = pad_sequence([silo.data.train.x for silo in silos], batch_first=True)
    every = [silo.data for silo in silos]
    y = [its.train.y if its.classes else (its.train.y - its.y_mean) / its.y_std for its in every]
    return Dataset(x.to(trainer.device), pad_sequence(y, batch_first=True).to(trainer.device))


def _phase(
    trainer: Trainer, net: Net, phase: Phase, silos: Sequence[Silo], data: Dataset, task: Task, number: int
) -> None:
    trainer.loop.prepare(net, phase)
    optimizer = trainer.loop.optimizer(moving_in(net), task)
    drawn = []
    for silo in silos:
        generator = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
        drawn.append([rows for rows, _ in trainer.loop.batches(silo, phase, generator)])
    for x, y, mask in _batches(drawn, data):
        _step(
            trainer, net, optimizer, to_inputs(x.flatten(0, 1), trainer.device).unflatten(0, y.shape), y, mask
        )


Batches = tuple[Tensor, Tensor, Tensor | None]  # x [A, B, ...], y [A, B], mask [A, B]


def _batches(drawn: Sequence[Sequence[Tensor]], data: Dataset) -> Iterator[Batches]:
    """
    A batch of each of the A silos that still train, the first of the stack. The mask says which rows there are,
    None: all; a row that is not there has no label. ``drawn``: each silo's batches of row numbers, no silo having
    more than the one before it.
    """
    steps = [[rows for rows in step if rows is not None] for step in zip_longest(*drawn)]
    padded = [pad_sequence(rows, batch_first=True, padding_value=-1) for rows in steps]
    if not padded:
        return
    # One transfer for the whole phase: within it nobody waits, neither the device nor we.
    flat = torch.cat([rows.flatten() for rows in padded]).to(data.y.device)
    silo = torch.arange(len(drawn), device=data.y.device)[:, None]
    none = torch.nan if data.y.is_floating_point() else NO_LABEL
    parts = flat.split([rows.numel() for rows in padded])
    for step, rows, part in zip(steps, padded, parts, strict=True):
        numbers = part.view_as(rows)
        where = silo[: len(rows)], numbers.clamp_min(0)
        x, y = data.x[where], data.y[where]
        if len({len(its) for its in step}) == 1:
            yield x, y, None
        else:
            mask = numbers >= 0
            yield torch.where(_beside(mask, x), x, 0), torch.where(mask, y, none), mask


def _step(
    trainer: Trainer, net: Net, optimizer: Optimizer, x: Tensor, y: Tensor, mask: Tensor | None
) -> None:
    """Silos after the first A have finished: they do not take part, and no decay or momentum moves them."""
    alive = len(y)
    tensors = {name: tensor[:alive] for name, tensor in net.state_dict(keep_vars=True).items()}
    if mask is not None:
        norms = (path for path, module in net.named_modules() if isinstance(module, _MaskedNorm))
        tensors |= {f"{path}.mask": mask for path in norms}

    def loss(tensors: State, x: Tensor, y: Tensor) -> Tensor:
        with precision.arithmetic(trainer.dtype, trainer.device):
            scores = precision.single(functional_call(net, tensors, (x,)))
        # The task's loss looks at scores and labels alone.
        out = Forward(Batch(x, y, torch.zeros_like(y)), Computed(Pass(x.new_empty(0), scores)))
        return mean_loss(TaskLoss(), out)

    optimizer.zero_grad(set_to_none=True)
    # A silo's loss depends on its own slice only, so the sum's gradient is each silo's gradient.
    vmap(loss)(tensors, x, y).sum().backward()
    moving = [weight for weight in net.parameters() if weight.grad is not None]
    finished = [weight[alive:].detach().clone() for weight in moving]
    optimizer.step()
    with torch.no_grad():
        for weight, as_it_was in zip(moving, finished, strict=True):
            weight[alive:] = as_it_was


class _MaskedNorm(_BatchNorm):
    """
    nn.BatchNorm over the rows that the mask m in {0, 1}^B keeps. With S positions in a row and n = S sum_i m_i,

        mean = sum_i m_i x_i / n,  variance = sum_i m_i (x_i - mean)^2 / n,

    sums over rows and positions, the rows are scaled by mean and variance, and the running statistics move by
    ``momentum`` to mean and variance n / (n - 1). What a row that is left out holds does not matter.

    The mask comes with the call (torch.func.functional_call), as the weights do; None keeps every row.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    mask: Tensor | None

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.register_buffer("mask", None, persistent=False)

    def _check_input_dim(self, input: Tensor) -> None:
        """The norm that this one replaces stands in the net that the bench validates with: it has checked."""

    def forward(self, input: Tensor) -> Tensor:
        if self.mask is None or not self.training:
            return super().forward(input)
        mask, axes = _beside(self.mask, input), [axis for axis in range(input.dim()) if axis != 1]
        n = self.mask.sum() * input[0, 0].numel()
        x = torch.where(mask, input, 0)
        mean = x.sum(axes, keepdim=True) / n
        centred = torch.where(mask, x - mean, 0)
        variance = centred.pow(2).sum(axes, keepdim=True) / n
        with torch.no_grad():
            self.running_mean.mul_(1 - self.momentum).add_(mean.flatten() * self.momentum)
            self.running_var.mul_(1 - self.momentum).add_((variance * n / (n - 1)).flatten() * self.momentum)
            self.num_batches_tracked.add_(1)
        channels = [-1] + [1] * (input.dim() - 2)
        scale = (variance + self.eps).rsqrt() * self.weight.view(channels)
        return torch.addcmul(self.bias.view(channels), centred, scale)


def _beside(mask: Tensor, x: Tensor) -> Tensor:
    """The mask with as many axes as ``x``."""
    return mask.view(*mask.shape, *[1] * (x.dim() - mask.dim()))
