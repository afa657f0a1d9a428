"""Rounds that train some roles only: which tensors move, which leave, and what is refused."""

from dataclasses import replace

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.study import build
from fedtl.experiment.tensor_table import tensor_table
from fedtl.methods.registry import METHODS
from fedtl.methods.restrict import train_only
from fedtl.methods.sets import set_of
from fedtl.methods.tune import Tune
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.roles import Role
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.experiment.private_silos import data_of, silo_of, task_of

FILM = frozenset({Role.NORM, Role.HEAD})
WEIGHTS = {Role.BODY, Role.NORM, Role.HEAD}


def trainer_of(method, roles=FILM, model="convnet", **training):
    spec = with_private_norms(model_spec(model, (1, 8, 8), 0))
    return Trainer(spec, train_only(METHODS[method](), roles), TrainingConfig(batch_size=16, **training))


def trained(trainer, silo, task):
    """Return every tensor before and after a round."""
    before = trainer.partition.join(task.shared, silo.local)
    update = trainer.fit(silo, task)
    shared = {name: tensor + update.delta[name] for name, tensor in task.shared.items()}
    return before, trainer.partition.join(shared, silo.local)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("private", [False, True], ids=["open", "private"])
@pytest.mark.parametrize("method", ["fedavg", "fedtl", "fedprox", "mrmtl", "ditto"])
def test_only_the_named_roles_move(method, private, tmp_path):
    trainer = trainer_of(method, weight_decay=0.1)
    silo = silo_of(trainer, tmp_path)
    if not private:
        silo.guarantee = None
    changed = {name for name in moved(*trained(trainer, silo, task_of(trainer))) if set_of(name) != "reach"}
    roles = {name: trainer.loop.roles[name.rpartition("/")[2]] for name in changed}
    assert set(roles.values()) - {Role.STATS} == FILM
    assert changed >= {name for name, role in trainer.loop.roles.items() if role in FILM}
    if private:
        assert Role.STATS not in roles.values()


@pytest.mark.parametrize("private", [False, True], ids=["open", "private"])
def test_a_group_norm_behind_a_layer_that_is_not_trained(private, tmp_path):
    """The gradient is that of the whole model; torch 2.13 alone crashes on it, in channels_last."""
    deltas = []
    for roles in (FILM, frozenset()):
        trainer = trainer_of("fedavg", roles, "convnet_gn", momentum=0.0)
        silo = silo_of(trainer, tmp_path / str(len(roles)), noise="reproducible")
        if not private:
            silo.guarantee, trainer = (
                None,
                replace(trainer, training=replace(trainer.training, batch_size=10**4)),
            )
        deltas.append(trainer.fit(silo, task_of(trainer)).delta)
    few, whole = deltas
    assert all(tensor.any() for tensor in few.values())
    if not private:
        for name, tensor in few.items():
            torch.testing.assert_close(tensor, whole[name])


@pytest.mark.parametrize("roles", [FILM, frozenset({Role.NORM})], ids=["norm and head", "norm"])
@pytest.mark.parametrize("method", ["fedavg", "fedtl", "mrmtl"])
def test_a_body_that_is_not_trained_stays_at_home(method, roles):
    trainer = trainer_of(method, roles)
    leaving = {
        trainer.partition.roles[name] for name in trainer.partition.roles if trainer.partition.leaves(name)
    }
    whole = METHODS[method]().shared
    assert leaving & WEIGHTS == whole & FILM
    assert trainer.method.head_is_local == METHODS[method]().head_is_local


def test_the_gradients_are_those_of_the_whole_model():
    """With plain SGD and one batch, the trained tensors move as they would with everything trained; the others not at all."""
    deltas = {}
    for roles in (FILM, frozenset()):
        trainer = trainer_of("fedavg", roles, momentum=0.0)
        trainer = replace(trainer, training=replace(trainer.training, batch_size=10_000))
        silo = replace(silo_for(trainer), guarantee=None)
        deltas[roles] = trainer.fit(silo, task_of(trainer)).delta
    few, all_ = deltas[FILM], deltas[frozenset()]
    assert few.keys() < all_.keys()
    for name in few:
        assert torch.equal(few[name], all_[name])


def silo_for(trainer):
    from fedtl.training.silo import Silo

    _, local = trainer.partition.split(trainer.initial(3))
    return Silo("a", data_of(), local, b"secret")


def test_the_clip_is_over_the_trained_tensors_alone(tmp_path):
    """A noisy sum has as many coordinates as the named roles have numbers, and each has noise of the same size."""
    trainer = trainer_of("fedavg", lr=1.0, momentum=0.0)
    silo = silo_of(trainer, tmp_path)
    guarantee = silo.guarantee
    tiny = replace(guarantee.training, clip=1e-6)
    silo.guarantee = replace(guarantee, training=tiny)
    task = task_of(trainer)
    before, after = trained(trainer, silo, task)
    noise = torch.cat([(after[name] - before[name]).flatten() for name in sorted(moved(before, after))])
    steps = tiny.steps_a_round
    expected = tiny.noise_multiplier * tiny.clip * steps**0.5 / guarantee.expected_batch
    assert len(noise) == sum(
        tensor.numel() for name, tensor in before.items() if trainer.loop.roles[name] in FILM
    )
    assert noise.std().item() == pytest.approx(expected, rel=0.2)


def test_finishing_at_home_may_still_train_everything():
    method = replace(train_only(METHODS["fedavg"](), FILM), tune=Tune("all", 1))
    trainer = Trainer(model_spec("convnet", (1, 8, 8), 0), method, TrainingConfig(batch_size=16))
    silo, task = silo_for(trainer), task_of(trainer)
    own = tuned_model(trainer, silo, task)
    before = trainer.partition.join(task.shared, silo.local)
    assert {trainer.loop.roles[name] for name in moved(before, own)} >= WEIGHTS


def table_of(*settings):
    with temporary_store() as store:
        study = build(load_experiment("digits", list(settings)), store, store)
        return {row.name: row for row in tensor_table(study) if set_of(row.name) == "model"}


def test_show_says_that_the_body_stays_public_and_at_home():
    rows = table_of("privacy.epsilon=3", "train.roles=['norm', 'head']", "method.name='fedavg'")
    for name, row in rows.items():
        wanted = {"body": "public", "norm": "released", "head": "released", "stats": "public"}[row.role]
        assert row.label == wanted, name
        assert row.leaves == (row.role != "body"), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["method.name='fedrep'", "train.roles=['norm']"], "train nothing"),
        (["method.name='fedbabu'", "train.roles=['head']"], "train nothing"),
        (["method.name='fedper'", "train.roles=['head']"], "share no weight"),
        (["train.roles=['stats']"], "train.roles"),
    ],
)
def test_a_choice_that_trains_or_shares_nothing_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        table_of(*settings)
