"""Terms, phases, frozen stages and learning rates of a round."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedtl.methods.base import BACKBONE, HEAD, Phase
from fedtl.methods.registry import METHODS
from fedtl.methods.tune import Tune
from fedtl.models.net import stages
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import (
    CLASSES,
    FULL_BATCH,
    by_role,
    data_of,
    federate,
    mlp,
    moved,
    same,
    silo_at,
    smooth,
    task_for,
)


def plain_training(state, data, steps, lr, momentum, mu):
    """
    Training in full batches by torch's own SGD, and after each step the proximal step of mu/2 ||w - w_received||^2, whose size
    is how far a constant gradient moves a weight in a step.
    """
    size = lr / (1 - momentum) * mu
    weights = {name: value.clone().requires_grad_() for name, value in state.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=lr, momentum=momentum)
    for _ in range(steps):
        h = torch.tanh(data.train.x @ weights["body.features.0.weight"].T + weights["body.features.0.bias"])
        loss = F.cross_entropy(h @ weights["head.weight"].T + weights["head.bias"], data.train.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_((weight + size * state[name]) / (1 + size))
    return {name: value.detach() for name, value in weights.items()}


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_fedprox_takes_the_proximal_step_of_the_squared_distance(mu):
    training = TrainingConfig(lr=0.1, momentum=0.9, batch_size=1000, epochs=6)
    trainer = Trainer(smooth(), METHODS["fedprox"](mu=mu), training)
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    wanted = plain_training(task.shared, silo.data, 6, 0.1, 0.9, mu)
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


@pytest.mark.parametrize(
    "method", [METHODS["fedbabu"](), METHODS["fedtl"](head="fixed")], ids=["fedbabu", "fedtl"]
)
def test_a_fixed_head_stays_as_it_began_and_is_the_same_at_every_silo(method):
    trainer = Trainer(mlp(), replace(method, tune=Tune(epochs=2)), TrainingConfig(batch_size=8))
    silos = [silo_at(trainer, name, data_of(seed, 15)) for seed, name in enumerate("ab")]
    federate(trainer, silos, number=3)
    first = trainer.initial(3)
    for silo in silos:
        assert torch.equal(silo.local["head.weight"], first["head.weight"])
        assert torch.equal(silo.local["head.bias"], first["head.bias"])
        tuned = tuned_model(trainer, silo, task_for(trainer, silo, round=4))
        assert not torch.equal(tuned["head.weight"], first["head.weight"])


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
