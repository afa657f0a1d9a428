"""One round at a silo: FedAvg equals training on all rows, what leaves, what is drawn from where, and failures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedtl.data.dataset import Dataset
from fedtl.errors import SiloFailed
from fedtl.methods.registry import METHODS, SELF_SUPERVISED
from fedtl.methods.sets import set_of
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import (
    CLASSES,
    FULL_BATCH,
    METHOD_NAMES,
    data_of,
    federate,
    mlp,
    rows_of,
    same,
    silo_at,
    smooth,
    spec_for,
    task_for,
)

WITH_MODULES = ("dann", "moon", "silo_dann", "cdan", "simultaneous", *SELF_SUPERVISED)  # of a loss


def numpy_step(state, x, y, lr):
    """One step of gradient descent on softmax regression over tanh features, by hand."""
    w1, b1, w2, b2 = (
        state[name].double().numpy()
        for name in ("body.features.0.weight", "body.features.0.bias", "head.weight", "head.bias")
    )
    x, y = x.double().numpy(), y.numpy()
    h = np.tanh(x @ w1.T + b1)
    z = h @ w2.T + b2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dz = (p - np.eye(len(CLASSES))[y]) / len(x)
    dh = dz @ w2 * (1 - h**2)
    return {
        "body.features.0.weight": w1 - lr * dh.T @ x,
        "body.features.0.bias": b1 - lr * dh.sum(0),
        "head.weight": w2 - lr * dz.T @ h,
        "head.bias": b2 - lr * dz.sum(0),
    }


def test_one_full_batch_step_at_three_silos_equals_one_step_on_all_rows():
    trainer = Trainer(smooth(), METHODS["fedavg"](), FULL_BATCH)
    silos = [
        silo_at(trainer, name, data_of(seed, n))
        for name, seed, n in (("a", 1, 7), ("b", 2, 40), ("c", 3, 19))
    ]
    (one,) = federate(trainer, silos)
    x = torch.cat([silo.data.train.x for silo in silos])
    y = torch.cat([silo.data.train.y for silo in silos])
    initial = trainer.initial(len(CLASSES))
    wanted = numpy_step(initial, x, y, FULL_BATCH.lr)
    assert one.after.shared.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(one.after.shared[name], value, atol=1e-6)
        assert np.abs(value - initial[name].numpy()).max() > 1e-3
    assert {name: reply.weight for name, reply in one.replies.items()} == {"a": 7, "b": 40, "c": 19}


def test_batch_norms_statistics_are_the_plain_mean_of_the_silos():
    trainer = Trainer(mlp(), METHODS["fedavg"](), FULL_BATCH)
    silos = [
        silo_at(trainer, name, data_of(seed, n))
        for name, seed, n in (("a", 1, 7), ("b", 2, 40), ("c", 3, 19))
    ]
    (one,) = federate(trainer, silos)
    weight = trainer.initial(3)["body.features.1.weight"].double().numpy()
    means, variances, n = [], [], [len(silo.data.train) for silo in silos]
    for silo in silos:
        h = silo.data.train.x.double().numpy() @ weight.T
        means.append(0.1 * h.mean(0))
        variances.append(0.9 + 0.1 * h.var(0, ddof=1))
    found = one.after.shared
    np.testing.assert_allclose(found["body.features.2.running_mean"], np.average(means, 0, n), atol=1e-5)
    np.testing.assert_allclose(found["body.features.2.running_var"], np.average(variances, 0, n), atol=1e-5)


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_nothing_local_is_in_an_update(name):
    method = METHODS[name]()
    trainer = Trainer(spec_for(name), method, TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before = copy_state(silo.local)
    update = trainer.fit(silo, task)
    roles = trainer.partition.roles
    crossing = {slot.name for slot in method.slots if slot.crosses}
    assert update.delta.keys() == {
        tensor
        for tensor in roles
        if roles[tensor] in method.shared
        or (set_of(tensor) in crossing and "num_batches" not in tensor)
        or roles[tensor] is Role.SUMMARY
    }
    assert silo.local.keys() == roles.keys() - update.delta.keys() == before.keys()
    # 23 rows with labels, and 12 without, which a method that needs no labels trains on too.
    assert (update.silo, update.round, update.weight) == (
        "here",
        1,
        35.0 if name in SELF_SUPERVISED else 23.0,
    )
    assert set(update.metrics) == {"loss", "accuracy"}
    if not (method.slots or method.summaries):
        final = copy_state(trainer.net(silo.data.width).state_dict())
        for tensor, value in update.delta.items():
            assert torch.equal(value, final[tensor] - task.shared[tensor])
    assert not method.shared or any(value.abs().sum() > 0 for value in update.delta.values())
    assert bool(Role.AUX in roles.values()) == (name in WITH_MODULES)


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_same_task_gives_the_same_bits(name):
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        trainer = Trainer(spec_for(name), METHODS[name](), TrainingConfig(batch_size=8))
        if noise:  # the same trainer trains another silo first
            other = silo_at(trainer, "there", data_of(5, 9))
            trainer.fit(other, task_for(trainer, other))
        silo = silo_at(trainer)
        update = trainer.fit(silo, task_for(trainer, silo))
        found.append((update.delta, silo.local, update.metrics))
    (delta, local, metrics), (again, local_again, metrics_again) = found
    assert same(delta, again)
    assert same(local, local_again)
    assert metrics == metrics_again


@pytest.mark.parametrize(
    "change",
    [{"secret": b"other"}, {"name": "there"}, {"seed": 1}, {"round": 2}],
    ids=lambda change: next(iter(change)),
)
def test_another_secret_name_seed_or_round_draws_other_batches(change):
    def delta(name="here", secret=b"secret", **task):
        trainer = Trainer(smooth(), METHODS["fedavg"](), TrainingConfig(batch_size=4))
        silo = silo_at(trainer, name, secret=secret)
        return trainer.fit(silo, task_for(trainer, silo, **task)).delta

    assert same(delta(), delta())
    assert not same(delta(), delta(**change))


def test_dropout_draws_from_the_same_address():
    def delta(noise):
        torch.manual_seed(noise)
        trainer = Trainer(smooth(dropout=0.5), METHODS["fedavg"](), FULL_BATCH)
        silo = silo_at(trainer)
        return trainer.fit(silo, task_for(trainer, silo)).delta

    assert same(delta(0), delta(1))


def test_the_metrics_are_of_the_model_as_it_was_received():
    trainer = Trainer(smooth(), METHODS["fedavg"](), FULL_BATCH)
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    s, val = task.shared, silo.data.val
    z = torch.tanh(val.x @ s["body.features.0.weight"].T + s["body.features.0.bias"])
    z = z @ s["head.weight"].T + s["head.bias"]
    metrics = trainer.fit(silo, task).metrics
    assert metrics["loss"] == pytest.approx(F.cross_entropy(z, val.y).item(), abs=1e-5)
    assert metrics["accuracy"] == pytest.approx((z.argmax(1) == val.y).float().mean().item())


def test_without_validation_rows_there_are_no_metrics():
    trainer = Trainer(smooth(), METHODS["fedavg"](), FULL_BATCH)
    silo = silo_at(trainer, data=replace(data_of(1, 9), val=rows_of(0, 0)))
    assert trainer.fit(silo, task_for(trainer, silo)).metrics == {}


@pytest.mark.parametrize("name", ["fedavg", "fedbn", "fedtl"])
def test_training_that_diverges_fails_and_leaves_the_silo_as_it_was(name):
    trainer = Trainer(mlp(), METHODS[name](), TrainingConfig(lr=1e30, batch_size=8))
    silo = silo_at(trainer)
    before = copy_state(silo.local)
    with pytest.raises(SiloFailed, match=r"^here: .*train.lr"):
        trainer.fit(silo, task_for(trainer, silo))
    assert same(silo.local, before)


def test_a_failed_silo_does_not_affect_the_next_one_of_the_same_trainer():
    trainer = Trainer(mlp(), METHODS["fedbn"](), TrainingConfig(batch_size=8))
    sick = silo_at(
        trainer,
        "sick",
        replace(data_of(1, 9), train=Dataset(torch.full((9, 4), float("nan")), torch.arange(9) % 3)),
    )
    well = silo_at(trainer)
    alone = silo_at(Trainer(mlp(), METHODS["fedbn"](), TrainingConfig(batch_size=8)))
    with pytest.raises(SiloFailed):
        trainer.fit(sick, task_for(trainer, sick))
    update = trainer.fit(well, task_for(trainer, well))
    other = Trainer(mlp(), METHODS["fedbn"](), TrainingConfig(batch_size=8))
    assert same(update.delta, other.fit(alone, task_for(other, alone)).delta)
