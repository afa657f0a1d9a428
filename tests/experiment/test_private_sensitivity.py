"""Why the guarantee needs constant statistics and a head that no row was trained on: what one record does to the sum that is released."""

from dataclasses import replace

import torch

from fedtl.data.dataset import Dataset
from fedtl.privacy.per_sample import clipping as gradients
from fedtl.training.batches import make_batch
from fedtl.training.silo import Silo
from tests.experiment.private_silos import bench_of, data_of, task_of


def released(trainer, state, data, rows):
    """The sum of clipped gradients of the body's tensors."""
    weights, phase = trainer._weights(state, 3), trainer.method.phases[0]
    net = weights.net
    trainer.loop.prepare(net, phase)

    def losses(model, which):
        batch = make_batch(data, which, None, trainer.device)
        return trainer.loop.example_losses(weights, phase, batch, 0.0)

    parts = gradients.clipped(gradients.by_hooks, net, rows, losses, 1.0)
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    kept = [part.flatten() for name, part in zip(names, parts, strict=True) if name.startswith("body.")]
    return torch.cat(kept)


def sensitivity(trainer, states):
    """``states``: what the silo would train from, with and without its first record, which is an odd one."""
    data = odd()
    everyone = torch.arange(len(data.train))
    with_it = released(trainer, states[0], data, everyone)
    return float((with_it - released(trainer, states[1], data, everyone[1:])).norm())


def odd():
    data = data_of(n=90)
    data.train.x[0] *= 30
    return data


def test_constant_statistics_keep_the_promise_and_exact_ones_break_it():
    trainer, x = bench_of(), odd().train.x
    initial = trainer.initial(3)
    assert sensitivity(trainer, (initial, initial)) <= 1 + 1e-4
    exact = tuple(trainer.adapt(initial, rows, 3) for rows in (x, x[1:]))
    assert sensitivity(trainer, exact) > 5


def test_a_head_that_saw_the_rows_without_noise_breaks_it_too():
    from fedtl.methods.base import HEAD, Phase

    trainer, data = bench_of(), odd()
    start, states = trainer.initial(3), []
    for rows in (slice(None), slice(1, None)):
        own = replace(data, train=Dataset(data.train.x[rows], data.train.y[rows]))
        silo = Silo("here", own, {}, b"secret")
        states.append(trainer.train(silo, start, Phase(HEAD, 30), task_of(trainer)))
    assert sensitivity(trainer, tuple(states)) > 5
