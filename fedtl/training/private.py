"""
Private training by DP-SGD: what is verified before a round is charged, the private phases, and the statistics and the
accuracy that are released with noise.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl._util.randomness import seed_layers, torch_generator
from fedtl.data.dataset import SiloDataset
from fedtl.data.synthetic import synthetic_like
from fedtl.errors import ConfigError, SiloFailed
from fedtl.messages import Task
from fedtl.models.net import Net
from fedtl.models.state import State
from fedtl.privacy import dp_adabn, dp_sgd
from fedtl.privacy.canaries import CanaryLayer
from fedtl.privacy.dp_accuracy import noisy_mean
from fedtl.privacy.dp_adabn import StatisticsRelease
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.per_sample.clipping import GradientMethod, choose_gradient_method
from fedtl.privacy.per_sample.independence import check_examples_independent
from fedtl.training.batches import ROWS_AT_ONCE, make_batch, to_inputs
from fedtl.training.loop import Loop, progress
from fedtl.training.metrics import correct
from fedtl.training.nets import PrivatePhase
from fedtl.training.silo import Silo

SYNTHETIC_ROWS = 8  # that the model is tried on before a round is charged
Losses = Callable[[nn.Module, Tensor], Tensor]


def private_phases(loop: Loop, silo: Silo) -> dict[int, PrivatePhase]:
    """Return, by their numbers, the phases in which the silo takes private steps."""
    if silo.guarantee is None:
        return {}
    return {
        number: PrivatePhase(
            phase, loop.method.losses, loop.training.freeze, silo.data.width, silo.guarantee.protected.unit
        )
        for number, phase in enumerate(loop.method.phases)
        if silo.guarantee.training.steps[number]
    }


def verify(
    loop: Loop, net: Net, silo: Silo, task: Task, gradient_methods: dict[PrivatePhase, GradientMethod]
) -> None:
    """
    Check, before a round is charged, that no example affects another's gradient in any private phase; and choose,
    where ``gradient_methods`` has none yet, the fastest per-example gradients that are the ones that autograd gives.

    The rows are synthetic, so the answer says nothing about the silo's. Terms see the progress at the end of the round,
    because a scheduled one may do nothing at 0. Raises ConfigError and SiloFailed, which name the silo.
    """
    guarantee = silo.guarantee
    assert guarantee is not None
    synthetic = synthetic_like(silo.data, SYNTHETIC_ROWS)
    rows, end = torch.arange(len(synthetic.train)), progress(task, 1, 1)
    batch = make_batch(synthetic, rows, None, loop.device)
    try:
        for number, phase in private_phases(loop, silo).items():
            loop.prepare(net, loop.method.phases[number])
            check_examples_independent(net, batch, lambda _, part: loop.example_losses(net, part, end))
            if phase not in gradient_methods:
                layer = _canary_layer(net, loop.optimizer(net, task), guarantee)
                trial, losses = layer.trial_rows(len(rows)), _losses_of(loop, net, layer, synthetic, end)
                several, clip = not guarantee.protected.are_records, guarantee.training.clip
                gradient_methods[phase] = choose_gradient_method(layer.model, trial, losses, clip, several)
    except (ConfigError, SiloFailed) as error:
        raise type(error)(f"{silo.name}: {error}") from error


def train_phase(
    loop: Loop, net: Net, silo: Silo, task: Task, number: int, received: State, gradients: GradientMethod
) -> None:
    """Train the net in phase ``number``, as ``Loop.run``, by DP-SGD: Poisson samples, and as many steps as the guarantee says."""
    guarantee = silo.guarantee
    assert guarantee is not None
    loop.prepare(net, loop.method.phases[number])
    optimizer = loop.optimizer(net, task)
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
    layers = torch_generator(task.seed, task.round, silo.name, number, key=silo.secret)
    seed_layers(layers.initial_seed(), loop.device)
    add_weight_gradients = partial(loop.add_weight_gradients, net, received)
    steps, count = guarantee.training.steps[number], len(silo.data.train)
    for step in range(steps):
        drawn = dp_sgd.poisson(layer.count, guarantee.training.sample_rate, draw)
        rows, row_units = _rows_of(drawn, units, guarantee.protected.count, count)
        losses = _losses_of(loop, net, layer, silo.data, progress(task, step, steps))
        after_noise = layer.before_optimizer(rows, count, guarantee.expected_batch, add_weight_gradients)
        mechanism.step(rows, losses, row_units, after_noise)
    layer.save(task.round, number)


def release_statistics(loop: Loop, net: Net, silo: Silo, release: StatisticsRelease) -> None:
    """Give the body's norms the silo's own statistics by DP-AdaBN, as the guarantee says."""
    guarantee, train = silo.guarantee, silo.data.train
    assert guarantee is not None
    net.eval()
    units = None if guarantee.protected.are_records else train.units

    def rows() -> Iterator[tuple[Tensor, Tensor | None]]:
        for part in torch.arange(len(train)).split(ROWS_AT_ONCE):
            yield to_inputs(train.x[part], loop.device), None if units is None else units[part]

    noise = guarantee.random("statistics", silo.name)
    dp_adabn.release_statistics(net.body, rows, release, noise, guarantee.canaries)


def noisy_accuracy(scores: Tensor, silo: Silo, round: int) -> dict[str, float]:
    """Return the accuracy of these scores on the validation rows, with the noise of the guarantee; {} where it releases none."""
    guarantee, val = silo.guarantee, silo.data.val
    if guarantee is None or guarantee.releases.accuracy is None:
        return {}
    units = None if guarantee.protected.are_records else val.units
    noise = guarantee.random("metric", silo.name, round)
    return {"accuracy": noisy_mean(correct(scores, val.y), units, guarantee.releases.accuracy, noise)}


def _canary_layer(net: Net, optimizer: Optimizer, guarantee: PrivacyGuarantee) -> CanaryLayer:
    return CanaryLayer(net, optimizer, guarantee.protected.count, guarantee.training.clip, guarantee.canaries)


def _losses_of(loop: Loop, net: Net, layer: CanaryLayer, data: SiloDataset, progress: float) -> Losses:
    """Return the losses [B] of rows of ``data`` and of the canaries, which are numbered after them."""
    batch_of = partial(make_batch, data, target_rows=None, device=loop.device)
    return layer.losses(len(data.train), batch_of, lambda batch: loop.example_losses(net, batch, progress))


def _rows_of(drawn: Tensor, units: Tensor | None, members: int, rows: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows of the sampled units, and the unit of each (None: each row is one); canaries are numbered last."""
    if units is None:
        return drawn, None
    own, canaries = torch.isin(units, drawn).nonzero().flatten(), drawn[drawn >= members]
    return torch.cat([own, canaries - members + rows]), torch.cat([units[own], canaries])
