"""Recorded steps give the bits of ordinary ones; what cannot be recorded is computed as usual."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.methods.sharing import fedavg
from fedtl.models.net import Net
from fedtl.models.registry import model_spec
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.training import recorded
from fedtl.training.recorded import GradientSteps, Replay, recorded_steps
from fedtl.training.trainer import Trainer
from tests.training.silos import COLUMNS, TrainingConfig, federate, mlp, same, silo_at, smooth

SETTINGS = TrainingConfig(lr=0.05, momentum=0.9, batch_size=8, epochs=3)  # of 23 rows: batches of 8, 8 and 7


def replays(trainer):
    steps = [one for net in trainer.cache.nets.values() for one in net.kept.values()]
    return [kind for one in steps for kind in one._kinds.values() if isinstance(kind, Replay)]


def trained(spec, **changes):
    trainer = Trainer(spec, fedavg(), SETTINGS)
    silo = silo_at(trainer)
    shared = federate(trainer, [silo], 2)[-1].after.shared
    return trainer, shared | silo.local


@pytest.mark.parametrize(
    "spec", [mlp(), smooth(), model_spec("linear", (COLUMNS,), 0)], ids=["mlp", "smooth", "linear"]
)
def test_recorded_steps_have_the_bits_of_ordinary_ones(spec, monkeypatch):
    monkeypatch.setattr(recorded, "EAGER_STEPS", 1)
    trainer, with_recording = trained(spec)
    assert len(replays(trainer)) == 2  # of whole batches, and of the last one
    monkeypatch.setattr(recorded, "EAGER_STEPS", 10**9)
    trainer, without = trained(spec)
    assert not replays(trainer)
    assert same(with_recording, without)


def test_a_layer_that_draws_is_not_recorded(monkeypatch):
    without = trained(smooth(dropout=0.5))[1]
    monkeypatch.setattr(recorded, "EAGER_STEPS", 1)
    trainer, with_recording = trained(smooth(dropout=0.5))
    assert not replays(trainer)
    assert same(with_recording, without)


class Moody(nn.Module):
    """Does something else in each pass, of which no kernel tells."""

    __module__ = "torch.nn.modules.moody"

    def forward(self, x):
        return x * random.random()


class Hidden(nn.Module):
    """Uses a tensor that the net does not list, and that something else may change."""

    __module__ = "torch.nn.modules.hidden"

    def __init__(self):
        super().__init__()
        self.hidden = [torch.ones(())]

    def forward(self, x):
        return x * self.hidden[0]


class Sorted(nn.Module):
    """Looks at a value, and computes accordingly."""

    __module__ = "torch.nn.modules.sorted"

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Unknown(nn.Module):
    def forward(self, x):
        return x


def net_with(layer):
    return Net(nn.Sequential(nn.Linear(4, 5), layer, nn.BatchNorm1d(5)), nn.Linear(5, 3), nn.ModuleDict())


def steps_of(net, count):
    """Take gradients of ``count`` batches, and return them with the steps that gave them."""
    moving, found = list(net.parameters()), []
    steps = recorded_steps(net, moving, CLASSIFICATION)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        x, y = torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator)
        for weight in moving:
            weight.grad = None
        steps.backward((x, y), lambda x=x, y=y: F.cross_entropy(net(x), y))
        found.append([weight.grad.clone() for weight in moving])
    return steps, found


@pytest.mark.parametrize("layer", [Moody, Hidden, Sorted, nn.Dropout])
def test_what_is_not_the_same_in_each_step_is_not_recorded(layer, monkeypatch):
    monkeypatch.setattr(recorded, "EAGER_STEPS", 1)
    net = net_with(layer())
    steps, _ = steps_of(net, 4)
    assert list(steps._kinds.values()) == [None]
    assert net.body[2].num_batches_tracked == 4  # the step that was tried counts once


def test_gradients_and_statistics_of_a_net(monkeypatch):
    def run(eager):
        monkeypatch.setattr(recorded, "EAGER_STEPS", eager)
        torch.manual_seed(0)
        net = net_with(nn.ReLU())
        steps, gradients = steps_of(net, 5)
        return isinstance(*steps._kinds.values(), Replay), gradients, net.state_dict()

    (early, gradients, state), (late, expected, usual) = run(1), run(9)
    assert early
    assert not late
    assert same(state, usual)
    for one, other in zip(gradients, expected, strict=True):
        assert all(map(torch.equal, one, other))


def test_only_layers_of_torch():
    net = net_with(Unknown())
    assert recorded_steps(net, list(net.parameters()), CLASSIFICATION) is None


def test_a_net_with_other_tensors_or_modes_has_steps_of_its_own():
    net = net_with(nn.ReLU())
    first = recorded_steps(net, list(net.parameters()), CLASSIFICATION)
    assert isinstance(first, GradientSteps)
    assert first is recorded_steps(net, list(net.parameters()), CLASSIFICATION)
    net.body[2].eval()
    second = recorded_steps(net, list(net.parameters()), CLASSIFICATION)
    net.body[2].running_mean = net.body[2].running_mean.clone()
    third = recorded_steps(net, list(net.parameters()), CLASSIFICATION)
    assert len({id(first), id(second), id(third)}) == 3


class Two(nn.Module):
    """Two weights with one gradient, which autograd gives as one tensor."""

    __module__ = "torch.nn.modules.two"

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))

    def forward(self, x):
        return x * (self.a + self.b)


def test_each_weight_has_a_gradient_of_its_own(monkeypatch):
    """One that two weights shared would be clipped twice."""
    monkeypatch.setattr(recorded, "EAGER_STEPS", 1)
    net = net_with(Two())
    (steps, _), moving = steps_of(net, 3), list(net.parameters())
    assert isinstance(*steps._kinds.values(), Replay)
    assert net.body[1].a.grad.data_ptr() != net.body[1].b.grad.data_ptr()
    assert len({weight.grad.data_ptr() for weight in moving}) == len(moving)


def test_a_step_that_is_not_finite_is_recorded_another_time(monkeypatch):
    monkeypatch.setattr(recorded, "EAGER_STEPS", 1)
    net = net_with(nn.ReLU())
    moving = list(net.parameters())
    steps = recorded_steps(net, moving, CLASSIFICATION)
    for x in (torch.ones(6, 4), torch.full((6, 4), torch.nan), torch.randn(6, 4), torch.randn(6, 4)):
        for weight in moving:
            weight.grad = None
        y = torch.zeros(6, dtype=torch.int64)
        net.body[2].reset_running_stats()  # NaN would stay in them
        steps.backward((x, y), lambda x=x, y=y: F.cross_entropy(net(x), y))
    assert isinstance(*steps._kinds.values(), Replay)


def test_a_small_tensor_that_is_wrong_is_seen_beside_a_large_one():
    large, small = torch.randn(1000) * 50, torch.randn(4) * 0.01
    assert recorded.close([(large, large), (small, small * 1.001)])
    assert not recorded.close([(large, large), (torch.zeros(4), small)])
    assert recorded.close([(large, large), (torch.full((4,), 1e-6), torch.full((4,), -1e-6))])
