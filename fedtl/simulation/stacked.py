"""
Several silos trained at once: every tensor of the model has a silo dimension in front, and one pass trains them all.

``stackable`` decides for which models and methods this is possible. The result is that of ``Trainer.fit`` within
rounding.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, Self

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.utils.rnn import pad_sequence

from fedtl._util.labels import NO_LABEL
from fedtl._util.randomness import torch_generator
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import ConfigError, FedTLError, SiloFailed
from fedtl.messages import Task, Update
from fedtl.methods.base import Phase
from fedtl.methods.losses import Batch, Computed, Forward, Pass, TaskLoss, mean_loss
from fedtl.models import precision
from fedtl.models.net import Net
from fedtl.models.state import State, copy_state, difference
from fedtl.simulation.engine import Fit, Job
from fedtl.simulation.masked_norm import MaskedNorm, expand_mask
from fedtl.simulation.serial import Serial
from fedtl.simulation.stackable import why_not_stackable
from fedtl.simulation.stacked_net import drop_stacks, stack_of
from fedtl.simulation.stacked_scores import metrics_of_stack, validation_rows
from fedtl.tasks.base import LearningTask
from fedtl.training.batches import fit_on, to_inputs
from fedtl.training.labels import labels_after_round
from fedtl.training.loop import moving_in, plain_stepper
from fedtl.training.recorded import GradientSteps, OrdinarySteps, recorded_steps
from fedtl.training.sgd import Stepper
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

log = logging.getLogger(__name__)


class Stacked:
    """The engine that trains up to ``size`` silos at once. It does any other job one silo after another."""

    workers = 1

    def __init__(self, trainer: Trainer, size: int) -> None:
        if reason := why_not_stackable(trainer):
            raise ConfigError(reason)
        self.trainer, self._size = trainer, size
        self._rows: dict[tuple[str, ...], Rows] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def each(self, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
        """Run the job as ``Engine.each`` does, in the order of ``silos``."""
        if not isinstance(job, Fit):
            yield from Serial(self.trainer).each(job, silos)
            return
        chunk_of = {silo.name: chunk for chunk in chunks(silos, self._size) for silo in chunk}
        done: dict[str, Update | SiloFailed] = {}
        for silo in silos:
            if silo.name not in done:
                done |= self._fit(job, chunk_of[silo.name])
            yield silo.name, done.pop(silo.name)

    def _fit(self, job: Fit, silos: Sequence[Silo]) -> dict[str, Update | SiloFailed]:
        """
        Train one silo after another where that is faster, or where the stack fails, which a single silo may have caused.
        """
        if len(silos) > 1 and not any(silo.guarantee for silo in silos):
            try:
                return fit(self.trainer, silos, job.task, self._rows_of(silos))
            except FedTLError:
                raise
            except Exception:
                names = ", ".join(silo.name for silo in silos)
                log.exception("%s cannot be trained in one stack; they are trained one after another", names)
                drop_stacks(self.trainer.net(silos[0].data.width))  # memory may have been short
        return dict(Serial(self.trainer).each(job, silos))

    def _rows_of(self, silos: Sequence[Silo]) -> "Rows":
        """Return the silos' rows on the device; those on a GPU stay there for the next round while there is room."""
        names = tuple(silo.name for silo in silos)
        if (kept := self._rows.get(names)) and kept.are_of(silos):
            return kept
        self._rows.pop(names, None)
        rows, device = Rows.of(self.trainer, silos), self.trainer.device
        others = (tensor for one in self._rows.values() for tensor in (one.train.x, one.val))
        if device.type == "cuda" and fit_on(device, rows.train.x, rows.val, *others):
            self._rows[names] = rows
        return rows


def chunks(silos: Sequence[Silo], size: int) -> Iterator[list[Silo]]:
    """
    Yield groups of about equal numbers, at most ``size`` silos with heads of one width and one task, whose loss may have weights of its classes; the largest
    silo first, so that the silos that still train are the first of the stack. Neighbours stay together, so few results are held
    back until it is their turn. The groups depend on the silos and the size alone, as rounding depends on them.
    """
    for kind in {(silo.data.width, silo.data.task) for silo in silos}:
        group = [silo for silo in silos if (silo.data.width, silo.data.task) == kind]
        count = -(-len(group) // size)
        ends = [-(-len(group) * number // count) for number in range(count + 1)]
        for start, end in pairwise(ends):
            yield sorted(group[start:end], key=lambda silo: len(silo.data.train), reverse=True)


@dataclass(frozen=True)
class Rows:
    """
    The rows of K silos on the device: ``train``, and the inputs of ``val`` [K, N, ...]; small silos are padded. ``sources``: the
    silos' data that they are of.
    """

    train: Dataset
    val: Tensor
    sources: tuple[SiloDataset, ...]

    @classmethod
    def of(cls, trainer: Trainer, silos: Sequence[Silo]) -> Self:
        sources = tuple(silo.data for silo in silos)
        return cls(_gather(trainer, silos), validation_rows(trainer, silos), sources)

    def are_of(self, silos: Sequence[Silo]) -> bool:
        return all(silo.data is source for silo, source in zip(silos, self.sources, strict=True))


def fit(
    trainer: Trainer, silos: Sequence[Silo], task: Task, rows: Rows | None = None
) -> dict[str, Update | SiloFailed]:
    """
    Train silos with heads of one width, the largest first, as ``Trainer.fit`` trains each. A silo that fails keeps its
    local tensors. ``rows``: the silos', where they are on the device already.
    """
    rows = rows or Rows.of(trainer, silos)
    states = [trainer.partition.join(task.shared, silo.local) for silo in silos]
    net = stack_of(trainer.net(silos[0].data.width), states)
    metrics = metrics_of_stack(trainer, net, silos, task, states, rows.val)
    for number, phase in enumerate(trainer.method.phases):
        _phase(trainer, net, phase, silos, rows.train, task, number)
    broken = _first_not_finite(net.state_dict())
    trained = copy_state(net.state_dict())
    results: dict[str, Update | SiloFailed] = {}
    locals_: list[tuple[Silo, State]] = []
    for index, silo in enumerate(silos):
        state = {name: tensor[index] for name, tensor in trained.items()}
        if broken[index]:
            results[silo.name] = SiloFailed(
                f"{silo.name}: {broken[index]} is not finite after round {task.round}; a lower train.lr may help"
            )
            continue
        shared, local = trainer.partition.split(state)
        locals_.append((silo, local))
        delta, weight = difference(shared, task.shared), float(len(silo.data.train))
        results[silo.name] = Update(silo.name, task.round, delta, weight, metrics[index])
    for silo, local in locals_:  # only now: after an error above, the caller trains them again
        silo.local, silo.labels = local, labels_after_round(trainer, silo)
    return results


def _first_not_finite(stack: State) -> list[str | None]:
    """Return for each silo of a stack the ``first_not_finite`` of its tensors, by names in order, in one answer from the device."""
    names = [name for name in sorted(stack) if stack[name].is_floating_point() and stack[name].numel()]
    flat = (stack[name].reshape(len(stack[name]), -1) for name in names)
    finite = torch.stack([torch.stack(one.aminmax(dim=1)).isfinite().all(0) for one in flat]).T.tolist()
    return [next((name for name, good in zip(names, its, strict=True) if not good), None) for its in finite]


def _gather(trainer: Trainer, silos: Sequence[Silo]) -> Dataset:
    """All training rows on the device, x [K, N, ...] and y [K, N], small silos padded. Pixels stay bytes."""
    x = pad_sequence([silo.data.train.x for silo in silos], batch_first=True)
    y = [silo.data.scaled(silo.data.train.y) for silo in silos]
    return Dataset(x.to(trainer.device), pad_sequence(y, batch_first=True).to(trainer.device))


def _phase(
    trainer: Trainer, net: Net, phase: Phase, silos: Sequence[Silo], data: Dataset, task: Task, number: int
) -> None:
    trainer.loop.prepare(net, phase)
    if not (moving := moving_in(net)):
        return
    stepper = plain_stepper(trainer.loop, moving, task)
    drawn = []
    for silo in silos:
        generator = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
        drawn.append([rows for rows, _ in trainer.loop.batches(silo, phase, generator)])
    tensors = net.state_dict(keep_vars=True)  # the optimiser changes them in place
    predicted = silos[0].data.task
    about = (predicted, trainer.device, trainer.dtype)
    steps = recorded_steps(net, [weight for _, weight in moving], about) or OrdinarySteps()
    for batches in _batches(drawn, data):
        _step(trainer, net, tensors, stepper, steps, predicted, batches)


Batches = tuple[Tensor, Tensor, Tensor | None]  # x [A, B, ...], y [A, B], mask [A, B]


def _batches(drawn: Sequence[Sequence[Tensor]], data: Dataset) -> Iterator[Batches]:
    """
    A batch of each of the A silos that still train, which are the first of the stack. The mask is False for padding,
    which has no label; None: no padding. ``drawn``: each silo's batches of row numbers, no silo having more batches than
    the one before it.
    """
    steps = [[rows for rows in step if rows is not None] for step in zip_longest(*drawn)]
    padded = [pad_sequence(rows, batch_first=True, padding_value=-1) for rows in steps]
    if not padded:
        return
    # One transfer for the whole phase: later ones would make the device and this process wait for each other.
    flat = torch.cat([rows.flatten() for rows in padded]).to(data.y.device)
    silo = torch.arange(len(drawn), device=data.y.device)[:, None]
    none = torch.nan if data.y.is_floating_point() else NO_LABEL
    parts = flat.split([rows.numel() for rows in padded])
    for step, rows, part in zip(steps, padded, parts, strict=True):
        numbers = part.view_as(rows)
        where = silo[: len(rows)], numbers.clamp_min(0)
        x, y = data.x[where], data.y[where]
        if len({len(batch) for batch in step}) == 1:
            yield x, y, None
        else:
            mask = numbers >= 0
            yield torch.where(expand_mask(mask, x), x, 0), torch.where(mask, y, none), mask


def _step(
    trainer: Trainer,
    net: Net,
    tensors: State,
    stepper: Stepper,
    steps: GradientSteps | OrdinarySteps,
    predicted: LearningTask,
    batches: Batches,
) -> None:
    """
    One step of the first A silos of the stack, whose tensors these are. The others have finished; weight decay and momentum do not
    move them.
    """
    x, y, mask = batches
    x = to_inputs(x.flatten(0, 1), trainer.device).unflatten(0, y.shape)
    alive, everyone = len(y), len(next(iter(tensors.values())))
    if alive < everyone:
        tensors = {name: tensor[:alive] for name, tensor in tensors.items()}
    if mask is not None:
        norms = (path for path, module in net.named_modules() if isinstance(module, MaskedNorm))
        tensors = tensors | {f"{path}.mask": mask for path in norms}

    def loss(tensors: State, x: Tensor, y: Tensor) -> Tensor:
        with precision.autocast_for(trainer.dtype, trainer.device):
            scores = precision.to_float32(functional_call(net, tensors, (x,)))
        # The task's loss uses scores and labels only.
        out = Forward(
            Batch(x, y, torch.zeros_like(y), task=predicted), Computed(Pass(x.new_empty(0), scores))
        )
        return mean_loss(TaskLoss(), out)

    stepper.zero_grad()
    if alive < everyone:
        steps = OrdinarySteps()
    # A silo's loss depends on its own slice only, so the sum's gradient is each silo's gradient.
    inputs = (x, y) if mask is None else (x, y, mask)
    steps.backward(inputs, lambda: vmap(loss)(tensors, x, y).sum())
    trained = [weight for weight in net.parameters() if weight.grad is not None] if alive < everyone else []
    finished = [weight[alive:].detach().clone() for weight in trained]
    with torch.inference_mode():  # gradients of recorded steps can be changed in it alone
        stepper.step()
    with torch.no_grad():
        for weight, as_it_was in zip(trained, finished, strict=True):
            weight[alive:] = as_it_was
