"""A private step against its law and its formula."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from fedtl.errors import ConfigError
from fedtl.privacy.dp_sgd import Mechanism, NoisySum, poisson
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample.clipping import by_bookkeeping, by_hooks
from tests.problems import Silent, expected_sum, flat, one_at_a_time, problem, sgd, traces, vector


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
@pytest.mark.parametrize("microbatch", [0, 1, 4, 100])
def test_step_is_the_clipped_sum_over_the_expected_batch(method, microbatch):
    net, losses = problem("convnet")
    wanted = vector(net) - 0.5 * expected_sum(one_at_a_time(net, losses, 6), 0.1) / 17.5
    silent = Silent()
    mechanism = Mechanism(net, sgd(net, lr=0.5), NoisySum(0.1, 3.0, 17.5), silent, method, microbatch)
    mechanism.step(torch.arange(6), losses)
    torch.testing.assert_close(vector(net), wanted, rtol=1e-9, atol=1e-12)
    count = sum(weight.numel() for weight in net.parameters())
    assert silent.asked == [((count,), pytest.approx(0.3))]  # once, and for each coordinate


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
@pytest.mark.parametrize("microbatch", [0, 1, 3])
def test_units_are_summed_before_the_clip(method, microbatch):
    net, losses = problem("mlp", size=8)
    units = torch.tensor([5, 2, 5, 9, 2, 5, 7, 5])
    each = one_at_a_time(net, losses, 8, units)
    wanted = vector(net) - expected_sum(each, 0.01)
    Mechanism(net, sgd(net), NoisySum(0.01, 1.0, 1.0), Silent(), method, microbatch).step(
        torch.arange(8), losses, units
    )
    torch.testing.assert_close(vector(net), wanted, rtol=1e-9, atol=1e-12)


class Line(nn.Module):
    """One layer, in which example i has the gradient x_i at every weight."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 1, bias=False).double()

    def forward(self, x):
        return self.layer(x)[:, 0]


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
def test_law_of_a_release(method):
    """10,000 coordinates in each of 20 releases: their mean is the clipped sum, their variance (sigma clip)^2."""
    width, clip, sigma, batch = 10_000, 2.0, 1.5, 4.0
    net, x = Line(width), torch.full((3, width), 1e-2, dtype=torch.float64)
    x[2] *= 100  # norms 1, 1 and 100
    wanted = (0.01 + 0.01 + clip / 100) * torch.ones(width)
    noise = Noise.reproducible(11)
    errors = []
    for _ in range(20):
        before = vector(net)
        Mechanism(net, sgd(net), NoisySum(clip, sigma, batch), noise, method).step(
            torch.arange(3), lambda model, rows: model(x[rows])
        )
        errors.append((before - vector(net)) * batch - wanted)
    errors = torch.stack(errors) / (sigma * clip)
    n = errors.numel()
    assert abs(float(errors.mean())) < 4 / math.sqrt(n)
    assert abs(float(errors.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float(errors.mean(0).var()) * 20 - 1) < 4 * math.sqrt(2 / width)  # releases are independent


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
def test_empty_batch_is_a_noisy_step(method):
    net, losses = problem("convnet", dtype=torch.float32)
    before = vector(net)
    Mechanism(net, sgd(net), NoisySum(2.0, 1.5, 3.0), Noise.reproducible(0), method).step(
        torch.arange(0), losses
    )
    moved = vector(net) - before
    assert abs(float(moved.std()) / (2.0 * 1.5 / 3.0) - 1) < 4 / math.sqrt(2 * len(moved))


def test_momentum_and_decay_come_after_the_noise():
    net, losses = problem("mlp")
    weights, velocity, noise = vector(net), 0.0, Noise.reproducible(1)
    optimizer = sgd(net, lr=0.1, momentum=0.9, weight_decay=0.01)
    mechanism = Mechanism(net, optimizer, NoisySum(1.0, 0.5, 6.0), Noise.reproducible(1), by_hooks)
    for _ in range(3):
        clean = expected_sum(one_at_a_time(net, losses, 6), 1.0)
        drawn = noise.normal(weights.shape, 0.5)
        velocity = 0.9 * velocity + (clean + drawn) / 6.0 + 0.01 * weights
        weights = weights - 0.1 * velocity
        mechanism.step(torch.arange(6), losses)
        torch.testing.assert_close(vector(net), weights, rtol=1e-8, atol=1e-10)


def test_terms_on_weights_act_between_noise_and_optimizer():
    net, losses = problem("mlp")
    before, seen = vector(net), []

    def beside():
        seen.append(flat(weight.grad.clone() for weight in net.parameters()))
        for weight in net.parameters():
            weight.grad += 2.0

    Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 1.0), Noise(), by_bookkeeping).step(
        torch.arange(6), losses, before_optimizer=beside
    )
    torch.testing.assert_close(vector(net), before - seen[0] - 2.0)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_fused_optimizer_on_channels_last_equals_a_plain_one(optimizer):
    nets = []
    for fused, layout in ((False, torch.contiguous_format), (True, torch.channels_last)):
        net, losses = problem("convnet", dtype=torch.float32)
        net = net.to(memory_format=layout)
        rule = getattr(torch.optim, optimizer)(net.parameters(), lr=0.01, fused=fused)
        mechanism = Mechanism(net, rule, NoisySum(0.1, 1.0, 6.0), Noise.reproducible(2), by_bookkeeping)
        for _ in range(2):
            mechanism.step(torch.arange(6), losses)
        nets.append(vector(net))
    torch.testing.assert_close(*nets, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
@pytest.mark.parametrize("way", ["a step", "an error in the losses", "an error in the backward pass"])
def test_nothing_remains_in_the_net(method, way):
    net, losses = problem("convnet")
    before, size = traces(net), len(pickle.dumps(net))
    mechanism = Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 6.0), Noise(), method, microbatch=4)

    def failing(model, rows):
        values = losses(model, rows)
        if way == "an error in the backward pass":
            values.register_hook(lambda grad: 1 / 0)
        elif way == "an error in the losses" and 5 in rows:
            raise ZeroDivisionError
        return values

    if way == "a step":
        mechanism.step(torch.arange(6), losses)
    else:
        with pytest.raises(ZeroDivisionError):
            mechanism.step(torch.arange(6), failing)
    assert traces(net) == before
    assert len(pickle.dumps(net)) == size


def test_unused_parameter_gets_only_noise():
    torch.manual_seed(0)
    net, x = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 500)]), torch.randn(4, 3)
    for method in (by_hooks, by_bookkeeping):
        before = net[1].weight.detach().clone()
        Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 1.0), Noise.reproducible(0), method).step(
            torch.arange(4), lambda model, rows: model[0](x[rows])[:, 0]
        )
        assert abs(float((net[1].weight.detach() - before).std()) - 1) < 0.1


def test_poisson_sampling():
    noise = Noise.reproducible(3)
    counts = torch.zeros(200)
    sizes = []
    for _ in range(1000):
        rows = poisson(200, 0.1, noise)
        assert rows.dtype == torch.int64
        counts[rows] += 1
        sizes.append(len(rows))
    assert abs(counts.mean() - 100) < 4 * math.sqrt(1000 * 0.09 / 200)
    assert abs(float(counts.var()) / 90 - 1) < 4 * math.sqrt(2 / 200)
    assert abs(float(torch.tensor(sizes, dtype=torch.float64).var()) / 18 - 1) < 4 * math.sqrt(2 / 1000)
    assert poisson(5, 1.0, noise).tolist() == [0, 1, 2, 3, 4]
    assert poisson(5, 0.0, noise).tolist() == poisson(0, 0.5, noise).tolist() == []


@pytest.mark.parametrize("name", ["clip", "noise_multiplier", "expected_batch"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_numbers_that_give_no_privacy_are_refused(name, value):
    """Failure 5: Opacus accepts a noise multiplier of 0."""
    numbers = {"clip": 1.0, "noise_multiplier": 1.0, "expected_batch": 4.0} | {name: value}
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        NoisySum(**numbers)


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
def test_interrupted_batch_is_not_added_to_the_next(method):
    """Failure 1: Opacus keeps the sum of an interrupted batch, and adds the next batch to it under one noise."""
    net, losses = problem("mlp")
    twin = copy.deepcopy(net)

    def breaks_off(model, rows):
        if 5 in rows:
            raise KeyboardInterrupt
        return losses(model, rows)

    mechanism = Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 6.0), Silent(), method, microbatch=2)
    before = vector(net)
    with pytest.raises(KeyboardInterrupt):
        mechanism.step(torch.arange(6), breaks_off)
    assert torch.equal(vector(net), before)
    mechanism._optimizer.signal_skip_step()  # as if broken off between the signal and the step
    mechanism._optimizer.forget()
    mechanism.step(torch.arange(4), losses)
    Mechanism(twin, sgd(twin), NoisySum(1.0, 1.0, 6.0), Silent(), method, microbatch=2).step(
        torch.arange(4), losses
    )
    assert torch.equal(vector(net), vector(twin))


def test_seeds_do_not_repeat_the_noise():
    """Failure 2: with Opacus, torch.manual_seed before two rounds gives both the same noise and the same batches."""
    released, drawn = [], []
    for _ in range(2):
        net, losses = problem("mlp", dtype=torch.float32)
        torch.manual_seed(0)
        Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 1.0), Noise(), by_hooks).step(torch.arange(6), losses)
        released.append(vector(net))
        drawn.append(poisson(1000, 0.5, Noise()))
    assert (released[0] - released[1]).std() > 1
    assert drawn[0].tolist() != drawn[1].tolist()


def test_parameter_outside_the_optimizer_is_refused():
    """Failure 3: with Opacus its raw gradient remains, and another optimizer may use it."""
    net, _ = problem("mlp")
    partly = torch.optim.SGD(net.body.parameters(), lr=1.0)
    with pytest.raises(ConfigError, match=r"head\.bias"):
        Mechanism(net, partly, NoisySum(1.0, 1.0, 1.0), Noise(), by_hooks)
    other = torch.optim.SGD([*net.parameters(), nn.Parameter(torch.ones(1))], lr=1.0)
    with pytest.raises(ConfigError, match="optimizer's parameters"):
        Mechanism(net, other, NoisySum(1.0, 1.0, 1.0), Noise(), by_hooks)
    everything = torch.optim.SGD(net.parameters(), lr=1.0)
    net.head.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"head\.weight"):
        Mechanism(net, everything, NoisySum(1.0, 1.0, 1.0), Noise(), by_hooks)


@pytest.mark.parametrize("method", [by_hooks, by_bookkeeping])
def test_grad_never_holds_a_raw_gradient(method):
    """
    Failure 4: with Opacus, .grad is the batch's raw mean between backward and step, and .grad_sample remains
    afterwards.
    """
    net, losses = problem("mlp")
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 1e9)  # somebody else's
    before, seen = vector(net), []
    wanted = expected_sum(one_at_a_time(net, losses, 6), 1.0)
    Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 1.0), Silent(), method).step(
        torch.arange(6),
        losses,
        before_optimizer=lambda: seen.append(flat(weight.grad.clone() for weight in net.parameters())),
    )
    torch.testing.assert_close(seen[0], wanted)
    torch.testing.assert_close(before - vector(net), wanted)
    assert all(weight.grad is None and not vars(weight) for weight in net.parameters())
