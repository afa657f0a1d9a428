"""
Private training by DP-SGD: what is verified before a round is charged, the private phases, and the statistics and the
accuracy that are released with noise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl._util.randomness import seed_layers
from fedtl.data.dataset import SiloDataset
from fedtl.data.synthetic import synthetic_like
from fedtl.errors import ConfigError, SiloFailed
from fedtl.messages import Task
from fedtl.methods.base import terms_of
from fedtl.methods.losses import Batch
from fedtl.methods.private import private_problems
from fedtl.methods.sets import MODEL
from fedtl.models.net import Net
from fedtl.models.state import State
from fedtl.privacy import dp_adabn, dp_sgd, dp_summary
from fedtl.privacy.canaries import SUMMARY_FILE, CanaryLayer, CanarySums
from fedtl.privacy.dp_accuracy import noisy_mean
from fedtl.privacy.dp_adabn import StatisticsRelease
from fedtl.privacy.guarantee import PrivacyGuarantee, Releases
from fedtl.privacy.per_sample.clipping import GradientMethod, choose_gradient_method
from fedtl.privacy.per_sample.independence import check_examples_independent, check_vectors_independent
from fedtl.tasks.classification import correct
from fedtl.training.after_step import after_step
from fedtl.training.batches import ROWS_AT_ONCE, make_batch, on_device, to_inputs
from fedtl.training.extra import summary_rows, vectors_of
from fedtl.training.loop import Loop, moving_in, progress
from fedtl.training.nets import NetKey, PrivatePhase
from fedtl.training.silo import Silo
from fedtl.training.weights import Weights

SYNTHETIC_ROWS = 8  # the number of rows on which the model is tested before a round is charged
Losses = Callable[[nn.Module, Tensor], Tensor]


def private_phases(loop: Loop, silo: Silo, net: NetKey, dtype: str) -> dict[int, PrivatePhase]:
    """Return, by their numbers, the phases in which the silo takes private steps, with this net in this precision."""
    if silo.guarantee is None:
        return {}
    return {
        number: PrivatePhase(
            phase,
            terms_of(loop.method, phase),
            loop.training.freeze,
            silo.guarantee.protected.unit,
            net,
            dtype,
        )
        for number, phase in enumerate(loop.method.phases)
        if silo.guarantee.training.steps[number]
    }


def verify(
    loop: Loop,
    weights: Weights,
    silo: Silo,
    task: Task,
    phases: Mapping[int, PrivatePhase],
    gradient_methods: dict[PrivatePhase, GradientMethod],
) -> None:
    """
    Check, before a round is charged, that no example affects another's gradient in any of the private ``phases``; and choose,
    where ``gradient_methods`` has none yet, the fastest per-example gradient method that agrees with autograd.

    The rows are synthetic, so the result does not depend on the silo's rows. Terms get the progress at the end of the
    round, because a term with a schedule may have no effect at progress 0. Raises ConfigError and SiloFailed, which name
    the silo.
    """
    guarantee, net = silo.guarantee, weights.net
    assert guarantee is not None
    for problem in private_problems(loop.method):
        raise ConfigError(f"{silo.name}: [privacy]: {problem}")
    synthetic = synthetic_like(silo.data, SYNTHETIC_ROWS)
    rows, end = torch.arange(len(synthetic.train)), progress(task, 1, 1)
    batch = make_batch(synthetic, rows, None, loop.device)
    try:
        for number, key in phases.items():
            phase = loop.method.phases[number]
            weights.hold(phase.on[0])
            loop.prepare(net, phase)
            losses_of = partial(loop.example_losses, weights, phase, progress=end)
            first = key not in gradient_methods  # what the size of a batch does, no round changes
            check_examples_independent(net, batch, partial(_without_net, losses_of), large=first)
            if first:
                layer = _canary_layer(net, loop.optimizer(moving_in(net), task), guarantee)
                trial, losses = layer.trial_rows(len(rows)), _losses_of(loop, layer, synthetic, losses_of)
                several, clip = not guarantee.protected.are_records, guarantee.training.clip
                gradient_methods[key] = choose_gradient_method(layer.model, trial, losses, clip, several)
        for summary in loop.method.summaries:
            vectors_by = partial(summary_rows, summary, weights)
            check_vectors_independent(batch, vectors_by, silo.data.width, f"the summary {summary.name!r}")
    except (ConfigError, SiloFailed) as error:
        raise type(error)(f"{silo.name}: {error}") from error


def train(
    loop: Loop, weights: Weights, silo: Silo, task: Task, gradients: Mapping[int, GradientMethod]
) -> None:
    """
    Train in each phase by DP-SGD. ``gradients``: of the phases that take steps, by their numbers; a phase without steps
    computes from the sets alone, which are private already.
    """
    for number, phase in enumerate(loop.method.phases):
        if number in gradients:
            train_phase(loop, weights, silo, task, number, gradients[number])
        else:
            loop.end(weights, phase)


def train_phase(
    loop: Loop, weights: Weights, silo: Silo, task: Task, number: int, gradients: GradientMethod
) -> None:
    """
    Train the net in phase ``number``, as ``Loop.run``, by DP-SGD: Poisson samples, and the guarantee's number of steps. Layers such
    as dropout draw by a row's position in the sample: whoever knew their numbers would see what a missing record moves.
    """
    guarantee, net, phase = silo.guarantee, weights.net, loop.method.phases[number]
    assert guarantee is not None
    weights.hold(phase.on[0])
    loop.prepare(net, phase)
    moving = moving_in(net)
    optimizer = loop.optimizer(moving, task)
    layer = _canary_layer(net, optimizer, guarantee)
    units = None if guarantee.protected.are_records else silo.data.train.units
    purpose = (silo.name, task.round, number)
    mechanism = dp_sgd.Mechanism(
        layer.model,
        optimizer,
        guarantee.noisy_sum,
        guarantee.random("noise", *purpose),
        gradients,
        ROWS_AT_ONCE,
    )
    draw = guarantee.random("sample", *purpose)
    seed_layers(guarantee.random("layers", *purpose).seed(), loop.device)
    add_weight_gradients = partial(loop.add_weight_gradients, weights, phase, moving)
    steps, count = guarantee.training.steps[number], len(silo.data.train)
    data = on_device(silo.data, loop.device)
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for step in range(steps):
        drawn = dp_sgd.poisson(layer.count, guarantee.training.sample_rate, draw)
        rows, row_units = _rows_of(drawn, units, guarantee.protected.count, count)
        losses_of = partial(loop.example_losses, weights, phase, progress=progress(task, step, steps))
        losses = _losses_of(loop, layer, data, losses_of)
        after_noise = layer.before_optimizer(rows, count, guarantee.expected_batch, add_weight_gradients)
        mechanism.step(rows, losses, row_units, after_noise)
        after_step(loop, weights, phase, moving, task)
    for name, buffer in net.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            raise SiloFailed(f"private steps changed the buffer {name} without noise; remove that layer")
    layer.save(task.round, number)
    loop.end(weights, phase)


def release_statistics(loop: Loop, weights: Weights, silo: Silo, release: StatisticsRelease) -> None:
    """Give the body's norms, in every set that has them, the silo's own statistics by DP-AdaBN."""
    guarantee, train, net = silo.guarantee, silo.data.train, weights.net
    assert guarantee is not None
    weights.hold(MODEL)
    net.eval()
    units = None if guarantee.protected.are_records else train.units

    def rows() -> Iterator[tuple[Tensor, Tensor | None]]:
        for part in torch.arange(len(train)).split(ROWS_AT_ONCE):
            yield to_inputs(train.x[part], loop.device), None if units is None else units[part]

    noise = guarantee.random("statistics", silo.name)
    released = dp_adabn.release_statistics(net.body, rows, release, noise, guarantee.canaries)
    for slot in loop.method.slots:
        for name, tensor in released.items():
            if f"body.{name}" in weights.sets[slot.name]:
                weights.sets[slot.name][f"body.{name}"] = tensor.to(loop.device)


def noisy_summaries(loop: Loop, weights: Weights, silo: Silo, round: int, due: Releases) -> State:
    """
    Return the method's summaries with noise, by the model as trained. A summary that is not ``due`` in this round keeps the value
    that was received, so the update says nothing about it.
    """
    guarantee, train = silo.guarantee, silo.data.train
    assert guarantee is not None
    releases = {release.name: release for release in due.summaries}
    units = None if guarantee.protected.are_records else train.units
    summaries: State = {}
    for summary in loop.method.summaries:
        if (release := releases.get(summary.name)) is None:
            summaries[summary.name] = weights.summaries[summary.name]
            continue
        noise = guarantee.random("summary", summary.name, silo.name, round)
        canaries = CanarySums(guarantee.canaries, SUMMARY_FILE.format(name=summary.name, round=round))
        parts = _with_units(vectors_of(summary, loop, weights, silo.data), units)
        summaries[summary.name] = dp_summary.noisy_mean(parts, release, noise, canaries)
        canaries.save()
    return summaries


def noisy_accuracy(scores: Tensor, silo: Silo, round: int) -> dict[str, float]:
    """Return the accuracy of these scores on the validation rows, with the noise of the guarantee; {} where it releases none."""
    guarantee, val = silo.guarantee, silo.data.val
    if guarantee is None or guarantee.releases.accuracy is None:
        return {}
    units = None if guarantee.protected.are_records else val.units
    noise = guarantee.random("metric", silo.name, round)
    return {"accuracy": noisy_mean(correct(scores, val.y), units, guarantee.releases.accuracy, noise)}


def _with_units(parts: Iterable[Tensor], units: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield parts of all rows in order with the unit of each row."""
    start = 0
    for part in parts:
        yield part, None if units is None else units[start : start + len(part)]
        start += len(part)


def _without_net(losses_of: Callable[[Batch], Tensor], _: nn.Module, batch: Batch) -> Tensor:
    return losses_of(batch)


def _canary_layer(net: Net, optimizer: Optimizer, guarantee: PrivacyGuarantee) -> CanaryLayer:
    return CanaryLayer(net, optimizer, guarantee.protected.count, guarantee.training.clip, guarantee.canaries)


def _losses_of(
    loop: Loop, layer: CanaryLayer, data: SiloDataset, losses_of: Callable[[Batch], Tensor]
) -> Losses:
    """Return the losses [B] of rows of ``data`` and of the canaries, which are numbered after them."""
    batch_of = partial(make_batch, data, target_rows=None, device=loop.device)
    return layer.losses(len(data.train), batch_of, losses_of)


def _rows_of(drawn: Tensor, units: Tensor | None, members: int, rows: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows of the sampled units, and the unit of each (None: each row is one); canaries are numbered last."""
    if units is None:
        return drawn, None
    own, canaries = torch.isin(units, drawn).nonzero().flatten(), drawn[drawn >= members]
    return torch.cat([own, canaries - members + rows]), torch.cat([units[own], canaries])
