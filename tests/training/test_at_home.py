"""What a silo does with its model after the last round."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special

from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import Choose
from fedtl.methods.registry import METHODS
from fedtl.methods.restrict import train_only
from fedtl.methods.tune import Tune
from fedtl.models.registry import with_private_norms
from fedtl.models.roles import Role
from fedtl.training.at_home import finish, own_model, received_model, tuned_model
from fedtl.training.at_home import trainer_of as trainer_of_member
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import OwnStart, Trainer
from tests.training.silos import data_of, mlp, moved, same, silo_at, task_for

ROUNDS, TUNE, CHOOSE = 3, Tune(epochs=2), Choose()


def trainer_of(name, tune=TUNE, choose=CHOOSE, **training):
    method = replace(METHODS[name](), tune=tune, choose=choose)
    restricted = train_only(method, map(Role, training.get("roles", ())))
    return Trainer(mlp(), restricted, TrainingConfig(batch_size=8, **training))


def after_rounds(trainer, data=None):
    """A silo that took part in all rounds alone, and the task with which it finishes."""
    silo = silo_at(trainer, data=data)
    task = task_for(trainer, silo, rounds=ROUNDS)
    for number in range(1, ROUNDS + 1):
        delta = trainer.fit(silo, replace(task, round=number)).delta
        task = replace(task, shared={name: task.shared[name] + delta[name] for name in delta})
    return silo, replace(task, round=ROUNDS + 1)


@pytest.mark.zoo
@pytest.mark.parametrize(
    "training", [{}, {"schedule": "cosine", "epochs": 2}, {"roles": ("norm", "head")}], ids=str
)
@pytest.mark.parametrize("name", ["fedavg", "fedtl", "ditto", "mmd"])
def test_the_own_model_is_that_of_the_method_local_to_the_bit(name, training):
    local = trainer_of("local", **training)
    wanted = tuned_model(local, *after_rounds(local))
    trainer = trainer_of(name, **training)
    own = own_model(trainer, *after_rounds(trainer))
    assert all(torch.equal(own[key], wanted[key]) for key in wanted)


def test_tuning_moves_what_it_says_and_ends_with_exact_statistics():
    data = replace(
        data_of(1, 23), val=data_of(1, 23).val.take(torch.arange(0))
    )  # so that every epoch is kept
    for what, roles in (
        ("all", set(Role)),
        ("head", {Role.HEAD}),
        ("norm", {Role.NORM, Role.STATS, Role.COUNT}),
    ):
        trainer = trainer_of("fedavg", Tune(what, 2), None)
        silo, task = after_rounds(trainer, data)
        received, tuned = received_model(trainer, silo, task), tuned_model(trainer, silo, task)
        assert {trainer.partition.roles[name] for name in moved(received, tuned)} == roles & set(
            trainer.partition.roles.values()
        )
        if what != "head":
            again = trainer.adapt(tuned, data.train.x, data.width)
            assert all(torch.allclose(again[name], tuned[name]) for name in again)


def test_a_mix_is_the_mean_of_the_probabilities_of_its_models():
    trainer = trainer_of("fedtl")
    silo, task = after_rounds(trainer)
    model = finish(trainer, silo, task)
    assert [(one.name, one.weight) for one in model.members] == [
        (name, pytest.approx(1 / 3)) for name in ("own", "shared", "tuned")
    ]
    assert (model.main.name, model.validation_rows, model.mixes) == ("tuned", 10, 16)
    x = data_of(9, 15).train.x
    parts = [special.softmax(trainer.scores(one.state, x, silo.data).numpy(), 1) for one in model.members]
    np.testing.assert_allclose(model.scores(trainer, x, silo.data).exp().numpy(), sum(parts) / 3, atol=1e-6)


def test_in_regression_values_are_averaged():
    trainer, data = trainer_of("fedavg"), data_of(1, 23, (), y_mean=3.0, y_std=2.0)
    silo, task = after_rounds(trainer, data)
    model = finish(trainer, silo, task)
    parts = [one.weight * trainer.scores(one.state, data.val.x, data) for one in model.members]
    torch.testing.assert_close(model.scores(trainer, data.val.x, data), sum(parts))


def test_candidates_are_the_shared_the_personal_and_the_tuned_model():
    everything = Choose(tuple(Candidate))
    trainer = trainer_of("ditto", choose=everything)
    silo, task = after_rounds(trainer)
    names = [one.name for one in finish(trainer, silo, task).members]
    assert names == list(Candidate) or len(names) < 4  # some may have no weight
    assert (
        len(finish(trainer_of("fedavg", choose=everything), *after_rounds(trainer_of("fedavg"))).members) <= 4
    )


@pytest.mark.parametrize("name", ["local", "probe"])
def test_who_shares_nothing_has_one_model(name):
    trainer = trainer_of(name)
    silo = silo_at(trainer)
    (only,) = finish(trainer, silo, task_for(trainer, silo, round=4, rounds=3)).members
    assert only.weight == 1


def test_a_pooled_model_is_the_same_at_every_silo():
    trainer = trainer_of("pooled")
    silo = silo_at(trainer)
    task = task_for(trainer, silo, round=4, rounds=3)
    (only,) = finish(trainer, silo, task).members
    assert same({name: only.state[name] for name in task.shared}, task.shared)


def test_nothing_in_the_silo_changes_and_the_result_is_the_same_twice():
    trainer = trainer_of("scaffold")
    silo, task = after_rounds(trainer)
    before = {name: tensor.clone() for name, tensor in silo.local.items()}
    first, second = finish(trainer, silo, task), finish(trainer, silo, task)
    assert same(silo.local, before)
    assert all(same(a.state, b.state) for a, b in zip(first.members, second.members, strict=True))


def test_a_private_trainers_own_model_is_the_ordinary_one():
    """The model that never leaves has ordinary norms and exact statistics, also where the shared one has private norms."""
    plain, converted = mlp(), with_private_norms(mlp())
    method = replace(METHODS["fedtl"](), tune=TUNE, choose=CHOOSE, exact_statistics="never")
    training = TrainingConfig(batch_size=8, roles=("norm", "head"))  # a baseline trains every role
    trainer = Trainer(converted, method, training, alone=OwnStart(plain))
    silo = silo_at(trainer)
    task = task_for(trainer, silo, round=ROUNDS + 1, rounds=ROUNDS)
    local = trainer_of("local")
    wanted = tuned_model(local, *after_rounds(local))
    model = finish(trainer, silo, task)
    own = next(one for one in model.members if one.name is Candidate.OWN)
    assert same(own.state, wanted)
    x = data_of(9, 15).train.x
    parts = [
        special.softmax(trainer_of_member(one, trainer).scores(one.state, x, silo.data).numpy(), 1)
        for one in model.members
    ]
    np.testing.assert_allclose(
        model.scores(trainer, x, silo.data).exp().numpy(), sum(parts) / len(parts), atol=1e-6
    )


def test_a_rate_at_home_that_is_too_high_leaves_what_was_received():
    """After private rounds the budget is spent, so a silo must not lose its model to a training that cost nothing."""
    trainer = trainer_of("fedavg", Tune(epochs=3, lr=1e30, ridge_head=False))
    silo, task = after_rounds(trainer)
    model = finish(trainer, silo, task)
    assert [one.name for one in model.members] in ([Candidate.TUNED], [Candidate.OWN, Candidate.TUNED])
    received = received_model(trainer, silo, task)
    assert same(tuned_model(trainer, silo, task), trainer.adapt(received, silo.data.train.x, silo.data.width))
    assert torch.isfinite(model.scores(trainer, silo.data.val.x, silo.data)).all()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_tuning_begins_with_a_head_in_closed_form_where_it_has_the_lower_validation_loss(scale):
    """With a rate that moves nothing. A head whose scores are far too large is worse than any other."""
    step = Tune("head", 1, lr=1e-12)
    trainer = trainer_of("fedavg", step, None)
    silo, task = after_rounds(trainer)
    task = replace(task, shared=task.shared | {"head.weight": task.shared["head.weight"] * scale})
    received = received_model(trainer, silo, task)

    def loss(state):
        scores = trainer.scores(state, silo.data.val.x, silo.data)
        return torch.nn.functional.cross_entropy(scores, silo.data.val.y)

    tuned = tuned_model(trainer, silo, task)
    assert loss(tuned) <= loss(received) + 1e-6
    if scale > 1:
        assert not torch.allclose(tuned["head.weight"], received["head.weight"])
    off = replace(trainer, method=replace(trainer.method, tune=replace(step, ridge_head=False)))
    assert torch.allclose(tuned_model(off, silo, task)["head.weight"], received["head.weight"])


@pytest.mark.parametrize("name", ["fedavg", "dann"])
def test_a_born_again_model_is_another_and_leaves_the_silo_as_it_was(name):
    data = replace(data_of(1, 23), val=data_of(1, 23).val.take(torch.arange(0)))
    models = []
    for generations in (0, 1):
        trainer = trainer_of(name, Tune(epochs=2, generations=generations), None)
        silo, task = after_rounds(trainer, data)
        before = dict(silo.local)
        models.append(tuned_model(trainer, silo, task))
        assert same(silo.local, before)
    assert models[0].keys() == models[1].keys()
    assert not torch.equal(models[0]["head.weight"], models[1]["head.weight"])
