"""FedDF and the loss of distillation, against numpy and scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from fedtl._util.randomness import torch_generator
from fedtl.methods.feddf import DistilOnServer, MeanScores, PublicModel, feddf
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import model_part
from fedtl.methods.teacher import distillation_losses
from fedtl.models.roles import Role
from fedtl.models.state import add_scaled
from fedtl.training.loop import TrainingConfig
from fedtl.training.nets import new_net
from fedtl.training.trainer import Trainer
from tests.training.silos import CLASSES, data_of, mlp, rows_of, same, silo_at, smooth, task_for

X = rows_of(7, 50).x


def scores(seed, n=6, width=4):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_losses_are_scaled_kl_divergences(temperature):
    student, teacher = scores(1), scores(2)
    p, q = (softmax(one.double().numpy() / temperature, axis=1) for one in (teacher, student))
    wanted = temperature**2 * rel_entr(p, q).sum(1)
    np.testing.assert_allclose(distillation_losses(student, teacher, temperature), wanted, rtol=1e-4)


def test_distillation_losses_take_logarithms_of_probabilities_for_scores():
    student, teacher = scores(1), scores(2)
    logs = torch.from_numpy(log_softmax(teacher.double().numpy(), axis=1)).float()
    torch.testing.assert_close(
        distillation_losses(student, logs, 3.0), distillation_losses(student, teacher, 3.0)
    )


def test_distillation_losses_of_values_are_half_the_squared_difference():
    student, teacher = scores(1, width=1), scores(2, width=1)
    wanted = (student - teacher).numpy()[:, 0] ** 2 / 2
    np.testing.assert_allclose(distillation_losses(student, teacher, 2.0), wanted, rtol=1e-6)


def scene(spec):
    """The trainer, what its silos received, their updates after one round, and the server's net on public inputs."""
    trainer = Trainer(spec, METHODS["fedavg"](), TrainingConfig(batch_size=8, lr=0.1, epochs=2))
    silos = [silo_at(trainer, name, data_of(seed, 12 + seed)) for seed, name in enumerate("abc")]
    task = task_for(trainer, silos[0])
    updates = [trainer.fit(silo, task) for silo in silos]
    net = new_net(spec, (), len(CLASSES))
    return trainer, task.shared, updates, PublicModel(net, X, 0)


def test_without_steps_it_is_fedavg_bit_for_bit():
    trainer, shared, updates, public = scene(mlp())
    roles = trainer.partition.roles
    wanted, _ = ServerStep()(shared, updates, roles, {})
    moved, memory = DistilOnServer(steps=0).on(public)(shared, updates, roles, {})
    assert same(moved, wanted)
    assert memory == {"round": 1}
    trained, _ = DistilOnServer(steps=1).on(public)(shared, updates, roles, {})
    assert not same(trained, wanted)


def linear_scores(state, x):
    """The outputs of ``smooth`` in numpy."""
    names = ("body.features.0.weight", "body.features.0.bias", "head.weight", "head.bias")
    w, b, v, c = (state[name].double().numpy() for name in names)
    return np.tanh(x @ w.T + b), np.tanh(x @ w.T + b) @ v.T + c


def test_the_teacher_is_the_mean_of_the_scores_whatever_the_number_of_rows():
    _, shared, updates, public = scene(smooth())
    teacher = MeanScores(public)
    assert list(teacher.hear(shared, updates)) == updates
    x = X.double().numpy()
    wanted = np.mean([linear_scores(add_scaled(shared, one.delta), x)[1] for one in updates], axis=0)
    np.testing.assert_allclose(teacher.mean(), wanted, atol=1e-5)


def test_a_model_without_finite_scores_does_not_teach():
    _, shared, updates, public = scene(smooth())
    name = "head.weight"
    broken = replace(updates[0], delta={**updates[0].delta, name: torch.full_like(shared[name], torch.inf)})
    some, teacher = MeanScores(public), MeanScores(public)
    assert list(teacher.hear(shared, [broken, *updates[1:]])) == [broken, *updates[1:]]
    list(some.hear(shared, updates[1:]))
    assert torch.equal(teacher.mean(), some.mean())


def test_one_step_is_that_of_numpy():
    trainer, shared, updates, public = scene(smooth())
    roles, size, lr = trainer.partition.roles, 16, 0.01
    step = DistilOnServer(steps=1, lr=lr, batch_size=size, temperature=2.0).on(public)
    mean, _ = ServerStep()(shared, updates, roles, {})
    moved, _ = step(shared, updates, roles, {"round": 4})
    rows = torch.randint(len(X), (size,), generator=torch_generator("distil", 0, 5))
    x = X[rows].double().numpy()
    # Each silo's model counts once, whatever its number of rows.
    teacher = np.mean([linear_scores(add_scaled(shared, one.delta), x)[1] for one in updates], axis=0)
    hidden, student = linear_scores(mean, x)
    p, q = softmax(teacher / 2, axis=1), softmax(student / 2, axis=1)
    error = 2 * (q - p) / size  # of T^2 KL at T = 2, by the scores
    inner = (error @ mean["head.weight"].double().numpy()) * (1 - hidden**2)
    gradients = {
        "head.weight": error.T @ hidden,
        "head.bias": error.sum(0),
        "body.features.0.weight": inner.T @ x,
        "body.features.0.bias": inner.sum(0),
    }
    for name, gradient in gradients.items():  # the first step of Adam
        wanted = mean[name].numpy() - lr * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose(moved[name], wanted, atol=2e-5)


def test_the_student_comes_nearer_to_the_mean_of_the_scores():
    trainer, shared, updates, public = scene(mlp())
    roles = trainer.partition.roles
    mean, _ = ServerStep()(shared, updates, roles, {})
    moved, _ = DistilOnServer(steps=60, lr=0.01).on(public)(shared, updates, roles, {})
    teacher = torch.stack([public.all_scores(add_scaled(shared, one.delta)) for one in updates]).mean(0)
    far, near = (float(distillation_losses(public.all_scores(one), teacher).mean()) for one in (mean, moved))
    assert near < far / 2
    for name, role in roles.items():  # statistics stay at their mean
        if role is Role.STATS:
            assert torch.equal(moved[name], mean[name])


def test_the_same_round_gives_the_same_bits_and_leaves_the_callers_tensors():
    trainer, shared, updates, public = scene(mlp())
    before = {name: tensor.clone() for name, tensor in shared.items()}
    step, roles = DistilOnServer(steps=3).on(public), trainer.partition.roles
    one, again = (step(shared, updates, roles, {"round": 1})[0] for _ in range(2))
    assert same(one, again)
    assert not same(one, step(shared, updates, roles, {"round": 2})[0])
    assert same(shared, before)
    assert list(model_part(one)) == sorted(shared)


def test_it_needs_public_inputs():
    step = feddf().server
    with pytest.raises(ValueError, match="public"):
        step({}, [], {}, {})
