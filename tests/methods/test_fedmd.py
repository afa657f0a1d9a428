"""FedMD: what crosses are scores on public inputs, and a silo's model learns from their mean. Against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from fedtl.messages import Update
from fedtl.methods.base import Phase
from fedtl.methods.fedmd import ANSWERS, MeanAnswers, fedmd
from fedtl.methods.losses import Batch, Forward
from fedtl.methods.private import private_problems
from fedtl.methods.sets import model_part
from fedtl.methods.teacher import FollowTeacher
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role
from fedtl.training.batches import make_batch
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer, trainer_at
from tests.methods.test_feddf import linear_scores
from tests.methods.test_laws import LATER_ALONE, PLAIN, silos_at
from tests.training.silos import (
    COLUMNS,
    FULL_BATCH,
    by_role,
    data_of,
    federate,
    mlp,
    rows_of,
    same,
    silo_at,
    smooth,
    task_for,
)

X = rows_of(7, 21).x
KEY = f"summary/{ANSWERS}"


def trainer_of(method, spec=None, training=PLAIN, **more):
    return Trainer(spec or mlp(), method, training, public=X, **more)


def federated(trainer, rounds):
    silos = silos_at(trainer)
    return silos, federate(trainer, silos, rounds)


@pytest.mark.parametrize(("method", "rounds"), [(fedmd(digest_epochs=0), 2), (fedmd(), 1)])
def test_without_digestion_and_in_the_first_round_each_silo_trains_alone(method, rounds):
    silos, _ = federated(trainer_of(method), rounds)
    alone, _ = federated(trainer_of(LATER_ALONE), rounds)
    for silo, other in zip(silos, alone, strict=True):
        assert same(model_part(silo.local), model_part(other.local))
    digested, _ = federated(trainer_of(fedmd()), 2)
    assert not same(digested[0].local, silos[0].local)


def test_scores_on_public_inputs_cross_and_nothing_else():
    trainer = trainer_of(fedmd())
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    assert {name: tuple(tensor.shape) for name, tensor in task.shared.items()} == {KEY: (21, 3)}
    update = trainer.fit(silo, task)
    assert update.delta.keys() == {KEY}
    model = trainer.adapt(model_part(silo.local), silo.data.inputs, 3)  # as the silo uses it
    net = trainer.net(3)
    net.load_state_dict(model)
    with torch.no_grad():
        wanted = net.eval()(X)
    torch.testing.assert_close(update.delta[KEY], wanted, atol=1e-5, rtol=1e-5)


def replies(seed=0, silos=4):
    generator = torch.Generator().manual_seed(seed)
    received = {KEY: torch.randn(6, 3, generator=generator)}
    deltas = [torch.randn(6, 3, generator=generator) * 2 for _ in range(silos)]
    updates = [Update(str(k), 1, {KEY: delta}, 10.0**k) for k, delta in enumerate(deltas)]
    return received, updates, np.stack([(received[KEY] + delta).double().numpy() for delta in deltas])


def test_the_server_gives_each_silo_the_same_weight_or_weighs_by_agreement():
    received, updates, answers = replies()
    mean, memory = MeanAnswers()(received, updates, {}, {})
    assert memory == {}
    np.testing.assert_allclose(mean[KEY], answers.mean(0), atol=1e-5)
    p = softmax(answers, axis=2)
    wanted = np.zeros((6, 3))
    for i in range(6):
        agreement = [p[k, i] @ p[:, i].mean(0) for k in range(4)]
        wanted[i] = sum(a * answers[k, i] for k, a in enumerate(agreement)) / sum(agreement)
    weighed, _ = MeanAnswers("agreement")(received, updates, {}, {})
    np.testing.assert_allclose(weighed[KEY], wanted, atol=1e-5)


def test_a_silo_that_contradicts_all_others_counts_for_less():
    agree, contradict = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    received = {KEY: torch.zeros(1, 2)}
    updates = [Update(str(k), 1, {KEY: one}, 1.0) for k, one in enumerate([agree, agree, agree, contradict])]
    equal, weighed = (
        MeanAnswers(how)(received, updates, {}, {})[0][KEY][0] for how in ("equal", "agreement")
    )
    assert equal.tolist() == [3.0, 1.0]
    assert weighed[1] < 0.5


def test_digestion_is_a_step_towards_the_received_scores_as_numpy_takes_it():
    method = replace(fedmd(temperature=2.0), phases=fedmd(temperature=2.0).phases[:1])
    trainer = trainer_of(method, smooth(), FULL_BATCH)
    silo = silo_at(trainer)
    before = model_part(silo.local)
    answers = torch.randn(21, 3, generator=torch.Generator().manual_seed(3))
    answers[:4] = 0.0  # of which nothing was received
    trainer.fit(silo, task_for(trainer, silo, shared={KEY: answers}))
    x, rows = X.double().numpy()[4:], 17
    hidden, student = linear_scores(before, x)
    p, q = softmax(answers[4:].double().numpy() / 2, axis=1), softmax(student / 2, axis=1)
    error = 2 * (q - p) / rows
    inner = (error @ before["head.weight"].double().numpy()) * (1 - hidden**2)
    gradients = {
        "head.weight": error.T @ hidden,
        "head.bias": error.sum(0),
        "body.features.0.weight": inner.T @ x,
        "body.features.0.bias": inner.sum(0),
    }
    for name, gradient in gradients.items():
        wanted = before[name].double().numpy() - FULL_BATCH.lr * gradient
        np.testing.assert_allclose(silo.local[name], wanted, atol=1e-6)


def test_public_inputs_leave_the_norms_statistics_alone():
    method = replace(fedmd(), phases=fedmd().phases[:1])
    trainer = trainer_of(method)
    silo = silo_at(trainer)
    before = silo.local
    trainer.fit(silo, task_for(trainer, silo, shared={KEY: torch.randn(21, 3)}))
    moved = {name for name in before if not torch.equal(before[name], silo.local[name])}
    assert moved == by_role(trainer, Role.BODY, Role.HEAD, Role.NORM)


def test_silos_of_different_architectures_learn_from_each_other():
    others = {"b": model_spec("mlp", (COLUMNS,), 0, settings={"width": 5, "layers": 3}), "c": smooth()}
    trainer = trainer_of(fedmd(), others=others)
    assert trainer_at(trainer, "a") is trainer
    silos = [
        silo_at(trainer_at(trainer, name), name, data_of(seed, 12 + seed)) for seed, name in enumerate("abc")
    ]
    assert len({tuple(sorted(silo.local)) for silo in silos}) == 3
    received = task_for(trainer, silos[0]).shared
    for number in (1, 2):
        task = replace(task_for(trainer, silos[0]), round=number, shared=received)
        updates = [trainer_at(trainer, silo.name).fit(silo, task) for silo in silos]
        received, _ = fedmd().server(received, updates, trainer.partition.roles, {})
    assert received[KEY].shape == (21, 3)
    spread = [(received[KEY] - update.delta[KEY]).isfinite().all() for update in updates]
    assert all(spread)


def test_without_public_inputs_a_silo_trains_alone():
    trainer = Trainer(mlp(), fedmd(), PLAIN)
    silo, other = silo_at(trainer), silo_at(trainer_of(LATER_ALONE))
    trainer.fit(silo, task_for(trainer, silo))
    with_public = trainer_of(LATER_ALONE)
    with_public.fit(other, task_for(with_public, other))
    assert same(model_part(silo.local), model_part(other.local))


def test_it_is_not_private():
    problems = list(private_problems(fedmd()))
    assert any("public inputs" in text for text in problems)
    assert any(ANSWERS in text for text in problems)


def test_a_batch_knows_the_numbers_of_its_rows():
    data = data_of(1, 9)
    batch = make_batch(data, torch.tensor([4, 2]), torch.tensor([7]), torch.device("cpu"))
    assert batch.rows.tolist() == [4, 2, -1]
    assert torch.equal(batch.x[:2], data.train.x[[4, 2]])


class Fixed:
    def run(self, x):
        raise AssertionError("no pass is needed")


def test_a_teacher_counts_no_row_of_a_second_domain():
    batch = Batch(X[:3], torch.zeros(3, dtype=torch.int64), torch.zeros(3), torch.tensor([1, -1, 0]))
    teacher = torch.ones(2, 3)
    teacher[0] = 0.0
    out = Forward(batch, Fixed(), 0.0, {"t": teacher})
    assert FollowTeacher("t").counts(out).tolist() == [True, False, False]


def test_a_phase_on_public_inputs_takes_as_many_steps_as_these_give():
    trainer = trainer_of(fedmd(), training=TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    weights = trainer._weights(silo.local | task_for(trainer, silo).shared, 3)
    from fedtl.training.public_rows import trained_on

    phase = Phase(public=True, epochs=2)
    given = trained_on(phase, silo, X)
    assert trainer.loop.run(weights, phase, given, task_for(trainer, silo), 0) == 2 * 3
    assert torch.equal(given.data.train.x, X)
    assert (given.data.train.y == -1).all()
