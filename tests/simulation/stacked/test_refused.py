"""What cannot be stacked is refused in one line."""

import pytest
import torch
from torch import nn, optim

from fedtl.errors import ConfigError
from fedtl.methods.base import Method
from fedtl.methods.error_feedback import with_wire
from fedtl.methods.losses import TaskLoss
from fedtl.methods.registry import METHODS
from fedtl.methods.wire import Wire
from fedtl.models.net import ModelSpec
from fedtl.simulation import stackable
from fedtl.simulation.stackable import why_not_stackable
from fedtl.simulation.stacked import Stacked
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.simulation.stacked.stacks import COMPARED, FEW, SHAPES, trainer_of


def with_layer(layer):
    body = nn.Sequential(nn.Linear(5, 4), layer)
    plan = ModelSpec(body, lambda width: nn.Linear(4, width), 4, "classifier", 0, (4,))
    return Trainer(plan, METHODS["fedtl"](), FEW)


class Frozen(nn.Module):
    """Like torchvision's FrozenBatchNorm2d: statistics without weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x):
        return (x - self.running_mean) / self.running_var.sqrt()


class ActiveNorm(nn.BatchNorm1d):
    """Like timm's BatchNormAct2d: a norm with an activation."""

    def __init__(self):
        super().__init__(4)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Scaled(nn.Module):
    """A container with a tensor of its own."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.inner(x) * self.scale


def twice():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    layers[1].weight = layers[0].weight
    return layers


def test_compressed_updates_are_not_stacked():
    trainer = trainer_of("mlp", with_wire(METHODS["fedtl"](), Wire("int8")))
    with pytest.raises(ConfigError, match="wire.dtype = 'int8'"):
        Stacked(trainer, 3)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.Dropout(0.5), r"body\.1 \(Dropout\)"),
        (nn.LayerNorm(4), r"\(LayerNorm\)"),
        (nn.LayerNorm(4, elementwise_affine=False), r"\(LayerNorm\)"),
        (nn.GroupNorm(2, 4), r"\(GroupNorm\)"),
        (nn.InstanceNorm1d(4), r"\(InstanceNorm1d\)"),
        (nn.SyncBatchNorm(4), r"\(SyncBatchNorm\)"),
        (Frozen(), r"\(Frozen\)"),
        (ActiveNorm(), r"\(ActiveNorm\)"),
        (Scaled(), r"\(Scaled\)"),
        (nn.BatchNorm1d(4, momentum=None), "without scale, momentum"),
        (nn.BatchNorm1d(4, affine=False), "without scale, momentum"),
        (nn.BatchNorm1d(4, track_running_stats=False), "without scale, momentum"),
        (twice(), "a weight that two layers share"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_layer_that_cannot_be_stacked_is_refused(layer, match):
    with pytest.raises(ConfigError, match=match) as caught:
        Stacked(with_layer(layer), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "objective"),
    [
        ("fedprox", "TaskLoss + Proximal"),
        ("dann", "TaskLoss + DomainAdversarial"),
        ("mmd", "TaskLoss + MaximumMeanDiscrepancy"),
        ("coral", "TaskLoss + Coral"),
        (Method(objective=(TaskLoss(), TaskLoss())), "TaskLoss + TaskLoss"),
    ],
)
def test_another_objective_is_refused(method, objective):
    reason = why_not_stackable(trainer_of("mlp", method))
    assert reason is not None
    assert f"the objective {objective} " in reason
    assert "engine.stack = 1" in reason


def test_an_optimiser_whose_step_is_not_elementwise_is_refused(monkeypatch):
    monkeypatch.setitem(stackable.OPTIMIZERS, "lbfgs", optim.LBFGS)
    reason = why_not_stackable(trainer_of("mlp", training=TrainingConfig(optimizer="lbfgs")))
    assert reason is not None
    assert "train.optimizer = 'lbfgs'" in reason


@pytest.mark.parametrize("model", SHAPES)
def test_the_models_of_fedtls_own_are_not_refused(model):
    for method in COMPARED:
        assert why_not_stackable(trainer_of(model, method)) is None
