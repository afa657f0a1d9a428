"""Training with adapters: what moves and what leaves by any method, at home, under privacy and in a stack."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.methods.registry import METHODS
from fedtl.methods.restrict import train_only
from fedtl.methods.sets import model_part
from fedtl.methods.tune import Tune
from fedtl.models.adapted import AdapterPlan, with_adapters
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.roles import Role
from fedtl.models.split import split_at_classifier
from fedtl.models.state import size_in_bytes
from fedtl.privacy.per_sample.clipping import by_bookkeeping, by_hooks, clipped
from fedtl.training.at_home import own_model, tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.experiment import private_silos as private
from tests.problems import expected_sum, flat, one_at_a_time
from tests.training.silos import (
    data_of,
    federate,
    moved,
    shape_for,
    silo_at,
    spec_for,
    task_for,
)

KINDS = ("ffa-lora", "lora", "bottleneck")
SMALL = TrainingConfig(batch_size=8, weight_decay=0.1)


def trainer_of(method="fedtl", kind="ffa-lora", norms=False):
    made = METHODS[method]() if isinstance(method, str) else method
    shape = shape_for(method)
    return Trainer(with_adapters(spec_for(method), AdapterPlan(kind, 2), shape, norms), made, SMALL)


class Attention(nn.Module):
    """One head over the positions of an image."""

    def __init__(self):
        super().__init__()
        self.patches, self.qkv, self.proj = nn.Conv2d(2, 4, 2, 2), nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = self.qkv(self.patches(x).flatten(2).transpose(1, 2)).chunk(3, 2)
        return self.proj((q @ k.transpose(1, 2)).softmax(2) @ v).mean(1)


def packed_attention():
    """torch's own attention over 12 positions of 6 numbers; its projection is a weight that no layer holds."""
    encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    body = nn.Sequential(nn.Flatten(1, 2), encoder, nn.Flatten())
    return split_at_classifier(
        nn.Sequential(OrderedDict(body=body, last=nn.Linear(72, 1))), "last", (2, 6, 6), 0
    )


def attention():
    model = nn.Sequential(OrderedDict(body=Attention(), last=nn.Linear(4, 1)))
    return split_at_classifier(model, "last", (2, 6, 6), 0)


def by_role(trainer, names):
    return {trainer.loop.roles.get(name.rpartition("/")[2]) for name in names}


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHODS)
def test_no_method_moves_or_sends_what_is_frozen(name):
    trainer = trainer_of(name)
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before = trainer.partition.join(task.shared, silo.local)
    update = trainer.fit(silo, task)
    after = silo.local | {key: task.shared[key] + delta for key, delta in update.delta.items()}
    frozen = trainer.spec.frozen
    assert {trainer.loop.roles[key] for key in frozen} == {Role.BODY, Role.NORM}
    assert not frozen & moved(model_part(before), model_part(after))
    assert not frozen & {key.rpartition("/")[2] for key in update.delta}
    if Role.ADAPTER in trainer.method.shared:
        assert Role.ADAPTER in by_role(trainer, update.delta)


def test_a_round_sends_the_numbers_of_the_second_matrices():
    trainer = trainer_of("fedtl")
    silo = silo_at(trainer)
    update = trainer.fit(silo, task_for(trainer, silo))
    assert size_in_bytes(update.delta) == 4 * 2 * (
        64 + 64
    )  # rank 2, two layers of 64 outputs; none of the norms
    lora = trainer_of("fedtl", "lora")
    update = lora.fit(silo_at(lora), task_for(lora, silo_at(lora)))
    assert size_in_bytes(update.delta) == 4 * 2 * (4 + 64 + 64 + 64)


def test_the_mean_model_is_the_mean_of_the_models():
    """After a round of fedavg: the weights that the mean adapters make are the mean of the silos' weights, weighted by rows."""
    trainer = trainer_of("fedavg")
    silos = [silo_at(trainer, name, data_of(seed, 12 + seed)) for seed, name in enumerate("ab")]
    updates = [trainer.fit(silo, task_for(trainer, silo)) for silo in silos]
    (done,) = federate(trainer, [silo_at(trainer, one.name, one.data) for one in silos])
    start, path = trainer.initial(3), "body.features.1"
    down = start[f"{path}.adapter.down.weight"].double()
    weights = [
        start[f"{path}.weight"] + one.delta[f"{path}.adapter.up.weight"].double() @ down for one in updates
    ]
    rows = [one.weight for one in updates]
    wanted = sum(n * weight for n, weight in zip(rows, weights, strict=True)) / sum(rows)
    common = start[f"{path}.weight"] + done.after.shared[f"{path}.adapter.up.weight"].double() @ down
    torch.testing.assert_close(common, wanted, rtol=1e-6, atol=1e-8)
    assert (weights[0] - weights[1]).abs().max() > 1e-4


@pytest.mark.parametrize("norms", [False, True])
def test_what_is_frozen_does_not_move_at_home_either(norms):
    trainer = trainer_of(replace(METHODS["fedtl"](), tune=Tune("all", 1, ridge_head=False)), norms=norms)
    data = data_of(1, 23)
    silo = silo_at(
        trainer, data=replace(data, val=data.val.take(torch.arange(0)))
    )  # which would choose 0 epochs
    task = task_for(trainer, silo)
    before = trainer.partition.join(task.shared, silo.local)
    wanted = {Role.ADAPTER, Role.HEAD} | ({Role.NORM} if norms else set())
    for model in (tuned_model(trainer, silo, task), own_model(trainer, silo, task)):
        assert by_role(trainer, moved(before, model)) - {Role.STATS, Role.COUNT} == wanted


def test_only_adapters_can_be_trained():
    trainer = trainer_of(train_only(METHODS["fedavg"](), [Role.ADAPTER]))
    silo = silo_at(trainer)
    update = trainer.fit(silo, task_for(trainer, silo))
    moving = {name for name, delta in update.delta.items() if delta.any()}
    assert by_role(trainer, moving) == {Role.ADAPTER, Role.STATS}


@pytest.mark.private
@pytest.mark.parametrize("kind", KINDS)
def test_a_private_round_trains_adapters_and_head_alone(kind, tmp_path):
    spec = with_private_norms(model_spec("convnet", private.SHAPE, 0))
    spec = with_adapters(spec, AdapterPlan(kind, 2), private.SHAPE)
    method = replace(METHODS["fedavg"](), exact_statistics="never")
    trainer = Trainer(spec, method, TrainingConfig(batch_size=16))
    silo = private.silo_of(trainer, tmp_path)
    task = private.task_of(trainer)
    update = trainer.fit(silo, task)
    moving = {name for name, delta in update.delta.items() if delta.any()}
    assert by_role(trainer, moving) == {Role.ADAPTER, Role.HEAD}
    assert moving == {name for name in update.delta if trainer.loop.roles[name] is not Role.STATS}
    assert {silo.labels[name] for name in spec.frozen} == {"public"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [by_bookkeeping, by_hooks])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_single_rows_are_autograds(kind, way, packed):
    """Of convolutions and of Linear layers on several positions; with matrices that are no longer 0."""
    torch.manual_seed(0)
    spec = with_adapters(packed_attention() if packed else attention(), AdapterPlan(kind, 2), (2, 6, 6))
    net = spec.net(3).double()
    for name, weight in net.named_parameters():
        weight.requires_grad_(name not in spec.frozen)
        weight.data += 0.1 * torch.randn_like(weight) * weight.requires_grad
    x, y = torch.randn(6, 2, 6, 6, dtype=torch.float64), torch.randint(3, (6,))

    def losses(model, rows):
        return F.cross_entropy(model(x[rows]), y[rows], reduction="none")

    each = one_at_a_time(net, losses, 6)
    clip = float(each.norm(dim=1).median())
    found = flat(clipped(way, net, torch.arange(6), losses, clip))
    torch.testing.assert_close(found, expected_sum(each, clip), rtol=1e-8, atol=1e-10)
