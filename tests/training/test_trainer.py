"""One institution's side of a round, against numpy and plain autograd; and what must never leave or change."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import SiloFailed
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Refusal, Task
from fedtl.methods.base import BACKBONE, HEAD, Phase
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import model_part, set_of
from fedtl.methods.tune import Tune
from fedtl.models.net import split_at_classifier, stages
from fedtl.models.norms import adabn_statistics
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

METHOD_NAMES = list(METHODS)
COLUMNS, CLASSES = 4, ("a", "b", "c")
FULL_BATCH = TrainingConfig(lr=0.3, momentum=0.0, batch_size=10_000)


def mlp():
    return model_spec("mlp", (COLUMNS,), 0)


def smooth(dropout=0.0):
    """A model without BatchNorm, split into body and head by fedtl."""

    def build():
        features = nn.Sequential(nn.Linear(COLUMNS, 6), nn.Tanh(), nn.Dropout(dropout))
        return nn.Sequential(OrderedDict(features=features, classifier=nn.Linear(6, 1)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return split_at_classifier(build(), "classifier", (COLUMNS,), 0)


def rows_of(seed, n, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, COLUMNS, generator=generator) * 2 + seed
    if not classes:
        return Dataset(x, x.sum(1) * 3 + 50)
    return Dataset(x, torch.randint(len(classes), (n,), generator=generator))


def data_of(seed, n, classes=CLASSES, target=True, **more):
    second = rows_of(seed + 100, 12).x if target else None
    return SiloDataset(rows_of(seed, n, classes), rows_of(seed + 50, 10, classes), classes, second, **more)


def silo_at(trainer, name="here", data=None, secret=b"secret"):
    data = data_of(1, 23) if data is None else data
    _, local = trainer.partition.split(trainer.initial(data.width))
    return Silo(name, data, local, secret)


def task_for(trainer, silo, **changes):
    shared, _ = trainer.partition.split(trainer.initial(silo.data.width))
    return replace(Task("test", 1, 4, 0, shared), **changes)


class InProcess:
    def __init__(self, trainer, silos):
        self.trainer, self.members = trainer, {silo.name: silo for silo in silos}

    def silos(self):
        return list(self.members)

    def ask(self, task, silos):
        for name in silos:
            try:
                yield self.trainer.fit(self.members[name], task)
            except SiloFailed as failure:
                yield Refusal(name, task.round, str(failure))


def federate(trainer, silos, number=1):
    shared, _ = trainer.partition.split(trainer.initial(len(CLASSES)))
    plan = FederationConfig("test", 0, number, ServerStep())
    return list(run_rounds(InProcess(trainer, silos), plan, ServerState(0, shared), trainer.partition.roles))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def by_role(trainer, *wanted):
    return {name for name, role in trainer.partition.roles.items() if role in wanted}


# FedAvg equals training on all rows


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


# What leaves


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_nothing_local_is_in_an_update(name):
    method = METHODS[name]()
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before = copy_state(silo.local)
    update = trainer.fit(silo, task)
    roles = trainer.partition.roles
    crossing = {slot.name for slot in method.slots if slot.crosses}
    assert update.delta.keys() == {
        tensor for tensor in roles if roles[tensor] in method.shared or set_of(tensor) in crossing
    }
    assert silo.local.keys() == roles.keys() - update.delta.keys() == before.keys()
    assert (update.silo, update.round, update.weight) == ("here", 1, 23.0)
    assert set(update.metrics) == {"loss", "accuracy"}
    if not method.slots:
        final = copy_state(trainer.net(silo.data.width).state_dict())
        for tensor, value in update.delta.items():
            assert torch.equal(value, final[tensor] - task.shared[tensor])
    assert not method.shared or any(value.abs().sum() > 0 for value in update.delta.values())
    assert bool(Role.AUX in roles.values()) == (name in ("dann", "moon"))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_same_task_gives_the_same_bits(name):
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        trainer = Trainer(mlp(), METHODS[name](), TrainingConfig(batch_size=8))
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


# Terms and phases


def plain_training(state, data, steps, lr, momentum, pull):
    """Training in full batches by torch's own SGD, with autograd of the whole loss."""
    weights = {name: value.clone().requires_grad_() for name, value in state.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=lr, momentum=momentum)
    for _ in range(steps):
        h = torch.tanh(data.train.x @ weights["body.features.0.weight"].T + weights["body.features.0.bias"])
        loss = F.cross_entropy(h @ weights["head.weight"].T + weights["head.bias"], data.train.y)
        loss = loss + pull(weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in weights.items()}


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_fedprox_is_the_squared_distance_in_the_loss(mu):
    training = TrainingConfig(lr=0.1, momentum=0.9, batch_size=1000, epochs=6)
    trainer = Trainer(smooth(), METHODS["fedprox"](mu=mu), training)
    silo = silo_at(trainer)
    task = task_for(trainer, silo)

    def pull(weights):
        return mu / 2 * sum((weights[name] - task.shared[name]).pow(2).sum() for name in weights)

    wanted = plain_training(task.shared, silo.data, 6, 0.1, 0.9, pull)
    delta = trainer.fit(silo, task).delta
    for name in wanted:
        assert torch.allclose(task.shared[name] + delta[name], wanted[name], atol=1e-5), name


def test_fedprox_keeps_weights_nearer_to_the_received_ones():
    def distance(mu):
        trainer = Trainer(smooth(), METHODS["fedprox"](mu=mu), TrainingConfig(lr=0.1, batch_size=8, epochs=5))
        silo = silo_at(trainer)
        return sum(
            value.pow(2).sum().item() for value in trainer.fit(silo, task_for(trainer, silo)).delta.values()
        )

    assert distance(5.0) < 0.7 * distance(0.0)


def test_fedreps_head_phase_leaves_the_bodys_bits_and_its_body_phase_the_heads():
    method = METHODS["fedrep"](head_epochs=3)
    assert [phase.train for phase in method.phases] == [HEAD, BACKBONE]
    for phase, roles in ((method.phases[0], (Role.HEAD,)), (method.phases[1], set(BACKBONE) | {Role.COUNT})):
        trainer = Trainer(mlp(), replace(method, phases=(phase,)), TrainingConfig(batch_size=8))
        silo = silo_at(trainer)
        task = task_for(trainer, silo)
        before = task.shared | silo.local
        delta = trainer.fit(silo, task).delta
        after = {name: task.shared[name] + delta[name] for name in delta} | silo.local
        assert moved(before, after) == by_role(trainer, *roles)


def test_fedreps_head_phase_sees_the_body_as_in_evaluation():
    """The head is trained with the running statistics, which the model uses later, too."""
    method = replace(METHODS["fedrep"](), phases=(Phase(HEAD, 1),))
    trainer = Trainer(mlp(), method, FULL_BATCH)
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    net = mlp().net(3)
    net.load_state_dict(task.shared | silo.local)
    trainer.fit(silo, task)
    F.cross_entropy(net.eval()(silo.data.train.x), silo.data.train.y).backward()
    wanted = net.head.weight - FULL_BATCH.lr * net.head.weight.grad
    assert torch.allclose(silo.local["head.weight"], wanted, atol=1e-6)


def test_phases_run_one_after_the_other():
    counts = {}
    for epochs in (1, 2):
        trainer = Trainer(
            mlp(), METHODS["fedrep"](head_epochs=4), TrainingConfig(batch_size=8, epochs=epochs)
        )
        silo = silo_at(trainer)
        trainer.fit(silo, task_for(trainer, silo))
        counts[epochs] = int(silo.local["body.features.2.num_batches_tracked"])
    assert counts == {1: 3, 2: 6}  # 23 rows in batches of 8, in the body's phase only


def test_a_phases_own_epochs_replace_those_of_the_settings():
    heads = []
    for phase, epochs in ((Phase(HEAD, 3), 1), (Phase(HEAD), 3), (Phase(HEAD), 1)):
        trainer = Trainer(
            mlp(), replace(METHODS["fedrep"](), phases=(phase,)), TrainingConfig(batch_size=8, epochs=epochs)
        )
        silo = silo_at(trainer)
        trainer.fit(silo, task_for(trainer, silo))
        heads.append(silo.local["head.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("k", [0, 1, 2])
def test_frozen_stages_do_not_move(k):
    plan = mlp()
    frozen = {f"body.{name}" for stage in stages(plan.body)[:k] for name in stage}
    assert len(frozen) == 3 * k
    trainer = Trainer(plan, METHODS["fedavg"](), TrainingConfig(batch_size=8, freeze=k, weight_decay=0.1))
    silo = silo_at(trainer)
    delta = trainer.fit(silo, task_for(trainer, silo)).delta
    weights = by_role(trainer, Role.BODY, Role.HEAD, Role.NORM)
    assert {name for name in weights if not delta[name].any()} == frozen


def test_frozen_stages_do_not_move_under_fedprox_and_adam():
    trainer = Trainer(
        mlp(), METHODS["fedprox"](mu=1.0), TrainingConfig(optimizer="adam", lr=0.01, batch_size=8, freeze=1)
    )
    silo = silo_at(trainer)
    delta = trainer.fit(silo, task_for(trainer, silo)).delta
    assert not any(delta[f"body.features.{name}"].any() for name in ("1.weight", "2.weight", "2.bias"))
    assert delta["body.features.4.weight"].any()


def test_a_body_with_a_learning_rate_of_zero_does_not_change():
    trainer = Trainer(mlp(), METHODS["dann"](), TrainingConfig(batch_size=8, body_lr=0.0, weight_decay=0.1))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before = copy_state(silo.local)
    delta = trainer.fit(silo, task).delta
    assert not any(delta[name].any() for name in by_role(trainer, Role.BODY, Role.NORM))
    assert all(delta[name].any() for name in by_role(trainer, Role.AUX))
    assert {"head.weight", "head.bias"} <= moved(before, silo.local)


def test_body_lr_is_a_factor_on_the_bodys_step():
    def delta(body_lr):
        trainer = Trainer(smooth(), METHODS["fedavg"](), replace(FULL_BATCH, body_lr=body_lr))
        silo = silo_at(trainer)
        return trainer.fit(silo, task_for(trainer, silo)).delta

    whole, tenth = delta(1.0), delta(0.1)
    for name in whole:
        factor = 0.1 if name.startswith("body.") else 1.0
        assert torch.allclose(tenth[name], factor * whole[name], atol=1e-6)


def test_a_schedule_is_a_factor_on_the_rounds_step():
    """The schedule is torch's own cosine, and 1 for training after the last round."""
    plain = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=4)
    trainer = Trainer(smooth(), METHODS["fedavg"](), replace(FULL_BATCH, schedule="cosine"))
    silo = silo_at(trainer)
    first = trainer.fit(silo, task_for(trainer, silo)).delta
    for round in (1, 2, 3, 4, 5):
        factor = cosine.get_last_lr()[0] if round <= 4 else 1.0
        delta = trainer.fit(silo, task_for(trainer, silo, round=round)).delta
        for name in delta:
            assert torch.allclose(delta[name], factor * first[name], atol=1e-6), (name, round)
        plain.step()
        cosine.step()


def test_fedbabus_head_stays_as_it_began():
    trainer = Trainer(mlp(), METHODS["fedbabu"](), TrainingConfig(batch_size=8))
    silos = [silo_at(trainer, name, data_of(seed, 15)) for seed, name in enumerate("ab")]
    federate(trainer, silos, number=3)
    first = trainer.initial(3)
    for silo in silos:
        assert torch.equal(silo.local["head.weight"], first["head.weight"])
        assert torch.equal(silo.local["head.bias"], first["head.bias"])


def test_mmd_and_dann_use_the_second_domain_and_fedtl_does_not():
    def delta(name, target):
        trainer = Trainer(mlp(), METHODS[name](), TrainingConfig(batch_size=8))
        silo = silo_at(trainer, data=data_of(1, 23, target=target))
        return trainer.fit(silo, task_for(trainer, silo, round=3)).delta

    assert same(delta("fedtl", True), delta("fedtl", False))
    for name in ("dann", "mmd", "coral"):
        assert not same(delta(name, True), delta(name, False))
    for name in ("mmd", "coral"):
        for tensor, value in delta(name, False).items():
            assert torch.allclose(value, delta("fedtl", False)[tensor], atol=1e-6)


@pytest.mark.parametrize("classes", [CLASSES, ()])
def test_rows_of_the_second_domain_do_not_count_in_the_tasks_loss(classes):
    """Without BatchNorm and with a weight of 0 they change nothing, whatever their number."""
    deltas = []
    for method in (METHODS["mmd"](weight=0.0), METHODS["fedtl"]()):
        trainer = Trainer(smooth(), method, FULL_BATCH)
        silo = silo_at(trainer, data=data_of(1, 23, classes, y_std=10.0))
        deltas.append(trainer.fit(silo, task_for(trainer, silo)).delta | silo.local)
    assert all(torch.allclose(deltas[0][name], deltas[1][name], atol=1e-6) for name in deltas[1])


# Failure


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


# Batches, inputs, heads


@pytest.mark.parametrize(("n", "batches"), [(8, 2), (9, 2), (10, 3), (5, 1), (4, 1), (3, 1)])
def test_a_last_batch_of_one_row_joins_the_one_before(n, batches):
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(batch_size=4))
    silo = silo_at(trainer, data=data_of(1, n))
    trainer.fit(silo, task_for(trainer, silo))
    assert int(silo.local["body.features.2.num_batches_tracked"]) == batches


@pytest.mark.parametrize("n", [256, 257, 600])
def test_evaluation_and_adaptation_take_any_number_of_rows(n):
    trainer = Trainer(mlp(), METHODS["fedtl"](), FULL_BATCH)
    state, x = trainer.initial(3), rows_of(1, n).x
    assert trainer.scores(state, x, data_of(1, 5)).shape == (n, 3)
    adapted = trainer.adapt(state, x, 3)
    h = x.double().numpy() @ state["body.features.1.weight"].double().numpy().T
    np.testing.assert_allclose(adapted["body.features.2.running_mean"], h.mean(0), atol=1e-4)
    np.testing.assert_allclose(adapted["body.features.2.running_var"], h.var(0, ddof=1), rtol=1e-4)
    assert trainer.scores(state, x[:0], data_of(1, 5)).shape == (0, 3)


def test_every_row_is_seen_once_an_epoch():
    trainer = Trainer(smooth(), METHODS["fedavg"](), TrainingConfig(batch_size=7, epochs=3))
    silo = silo_at(trainer)
    generator = torch.Generator().manual_seed(0)
    steps = list(trainer.loop.batches(silo, Phase(epochs=3), generator))
    for epoch in range(3):
        seen = torch.cat([rows for rows, _ in steps[epoch * 4 : epoch * 4 + 4]])
        assert sorted(seen.tolist()) == list(range(23))
    assert len(steps) == 12


def test_pixels_become_minus_one_to_one():
    trainer = Trainer(model_spec("convnet", (1, 8, 8), 0), METHODS["fedavg"](), FULL_BATCH)
    pixels = torch.randint(
        0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = SiloDataset(Dataset(pixels, torch.arange(5) % 3), Dataset(pixels, torch.arange(5) % 3), CLASSES)
    state = trainer.initial(3)
    scores = trainer.scores(state, pixels, data)
    assert torch.allclose(
        scores, trainer.scores(state, pixels.double().div(127.5).sub(1).float(), data), atol=1e-5
    )
    assert pixels.dtype == torch.uint8
    assert pixels.max() > 1


def test_heads_of_different_widths_share_one_body():
    trainer = Trainer(mlp(), METHODS["fedper"](), TrainingConfig(batch_size=8))
    narrow = silo_at(trainer, "narrow", data_of(1, 20, ("x", "y")))
    wide = silo_at(trainer, "wide", data_of(2, 20))
    for one in federate(trainer, [narrow, wide], number=2):
        assert list(one.replies) == ["narrow", "wide"]
    assert narrow.local["head.weight"].shape == (2, 64)
    assert wide.local["head.weight"].shape == (3, 64)


def test_start_replaces_first_weights_of_the_same_shape():
    start = {"body.features.1.weight": torch.ones(64, COLUMNS), "head.weight": torch.ones(7, 64)}
    trainer = Trainer(mlp(), METHODS["fedavg"](), FULL_BATCH, start=start)
    plain = Trainer(mlp(), METHODS["fedavg"](), FULL_BATCH)
    assert moved(plain.initial(3), trainer.initial(3)) == {"body.features.1.weight"}
    assert torch.equal(trainer.initial(7)["head.weight"], torch.ones(7, 64))


def test_the_initial_state_does_not_depend_on_what_was_trained():
    trainer = Trainer(mlp(), METHODS["dann"](), TrainingConfig(batch_size=8))
    before = trainer.initial(3)
    silo = silo_at(trainer)
    trainer.fit(silo, task_for(trainer, silo))
    assert same(before, trainer.initial(3))
    assert same(before, Trainer(mlp(), METHODS["dann"](), TrainingConfig()).initial(3))


# Regression


def test_scores_are_in_the_labels_own_unit():
    trainer = Trainer(smooth(), METHODS["fedavg"](), FULL_BATCH)
    plain, scaled = data_of(1, 9, ()), data_of(1, 9, (), y_mean=50.0, y_std=4.0)
    state, x = trainer.initial(1), rows_of(1, 6).x
    assert plain.width == 1
    raw = trainer.scores(state, x, plain)
    assert torch.allclose(trainer.scores(state, x, scaled), raw * 4 + 50, atol=1e-4)


def test_training_on_values_with_a_scale_is_training_on_scaled_values():
    deltas = []
    for scaled in (False, True):
        trainer = Trainer(smooth(), METHODS["fedavg"](), TrainingConfig(lr=0.1, batch_size=8, epochs=2))
        data = data_of(1, 23, (), y_mean=50.0, y_std=4.0)
        if scaled:
            data = replace(data, train=Dataset(data.train.x, (data.train.y - 50) / 4), y_mean=0.0, y_std=1.0)
        silo = silo_at(trainer, data=data)
        deltas.append(trainer.fit(silo, task_for(trainer, silo)).delta)
    assert all(torch.allclose(deltas[0][name], deltas[1][name], atol=1e-5) for name in deltas[0])


def test_regression_learns_in_the_labels_own_unit():
    """y = 3 sum x + 50; after training the error is a small part of the labels' spread."""
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(lr=0.05, batch_size=32, epochs=30))
    train = rows_of(1, 200, ())
    data = data_of(1, 200, (), y_mean=train.y.mean().item(), y_std=train.y.std().item())
    silo = silo_at(trainer, data=data)
    task = task_for(trainer, silo)
    update = trainer.fit(silo, task)
    state = trainer.partition.join({n: task.shared[n] + update.delta[n] for n in task.shared}, silo.local)
    error = (trainer.scores(state, train.x, data)[:, 0] - train.y).pow(2).mean().sqrt()
    assert error < 0.3 * train.y.std()
    assert update.metrics["rmse"] == pytest.approx((2 * update.metrics["loss"]) ** 0.5)


def test_regression_with_a_second_domain_ignores_its_absent_labels():
    trainer = Trainer(mlp(), METHODS["mmd"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer, data=data_of(1, 23, ()))
    assert all(
        torch.isfinite(value).all() for value in trainer.fit(silo, task_for(trainer, silo)).delta.values()
    )


# After the last round


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_finishing_changes_nothing_in_the_silo(name):
    trainer = Trainer(mlp(), METHODS[name](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before, shared = copy_state(silo.local), copy_state(task.shared)
    settled = tuned_model(trainer, silo, task)
    assert same(silo.local, before)
    assert same(task.shared, shared)
    assert same(settled, tuned_model(trainer, silo, task))
    roles = set() if Role.STATS in trainer.method.shared else by_role(trainer, Role.STATS)
    if any(step.trained for step in trainer.method.finish):
        roles = roles | by_role(trainer, Role.HEAD)
    assert moved(model_part(shared | before), settled) == roles


def test_fedtl_ends_with_the_statistics_of_the_silos_own_inputs():
    trainer = Trainer(mlp(), METHODS["fedtl"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    settled = tuned_model(trainer, silo, task)
    net = mlp().net(3)
    net.load_state_dict(task.shared | silo.local)
    for name, value in adabn_statistics(net.body, [silo.data.train.x]).items():
        assert torch.allclose(settled[f"body.{name}"], value, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "stays"), [("head", {Role.BODY, Role.NORM, Role.STATS, Role.COUNT}), ("all", set())]
)
def test_personalising_changes_only_the_declared_roles(what, stays):
    method = replace(METHODS["fedavg"](), finish=(Tune(what, 2),))
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    settled = tuned_model(trainer, silo, task)
    assert moved(task.shared | silo.local, settled) == by_role(trainer, *(set(Role) - stays))


def test_another_phase_starts_from_any_state_and_changes_nothing_in_the_silo():
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    before, state = copy_state(silo.local), {name: value * 1 for name, value in trainer.initial(3).items()}
    trained = trainer.train(silo, state, Phase(HEAD, 2), task_for(trainer, silo))
    assert moved(state, trained) == {"head.weight", "head.bias"}
    assert same(silo.local, before)
