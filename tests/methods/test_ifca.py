"""IFCA against a recursion in numpy: who picks which model, and how each model moves."""

from dataclasses import replace

import numpy as np
import torch

from fedtl._util.randomness import address
from fedtl.messages import Update
from fedtl.methods.base import Method, Phase, Pick
from fedtl.methods.ifca import mean_of_members
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import MODEL, model_part, part
from fedtl.models.roles import Role
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.methods.test_laws import shared, trained, used
from tests.methods.test_pull import FULL, design, gradient, regression, vector
from tests.training.silos import mlp, same

AT_RANDOM = 0.2
NAMES = (MODEL, "model_2", "model_3", "model_4")


def models_of(state):
    return [model_part(state) if name == MODEL else part(state, name) for name in NAMES]


def loss(silo, w):
    x, y = design(silo)
    return ((x @ w - y) ** 2).mean()


def test_the_rounds_are_those_of_numpy():
    sizes = (20, 30, 10)
    method = METHODS["ifca"](clusters=4, at_random=AT_RANDOM)
    trainer, silos, history = regression(method, 25, replace(FULL, epochs=2), sizes)
    models = [vector(one) for one in models_of(trainer.initial(1))]
    drawn = [address("pick", 0, silo.name, key=silo.secret) % 4 for silo in silos]
    for number in range(1, 26):
        picks = [int(np.argmin([loss(silo, w) for w in models])) for silo in silos]
        if number <= 25 * AT_RANDOM:
            picks = drawn
        trained_ = []
        for silo, pick in zip(silos, picks, strict=True):
            w = models[pick]
            for _ in range(2):
                w = w - 0.1 * gradient(silo, w)
            trained_.append(w)
        for which in set(picks):
            members = [k for k, pick in enumerate(picks) if pick == which]
            weights = [sizes[k] for k in members]
            models[which] = np.average([trained_[k] for k in members], 0, weights)
    found = [vector(one) for one in models_of(shared(history))]
    np.testing.assert_allclose(found, models, atol=1e-5)
    assert picks[0] == picks[1] != picks[2]  # the far silo picks another model than the two that are alike
    for silo, pick in zip(silos, picks, strict=True):
        assert silo.local["pick/of"].tolist() == [float(number == pick) for number in range(4)]
        np.testing.assert_allclose(vector(used(trainer, silo, history)), models[pick], atol=1e-5)


def test_a_model_that_all_pick_is_fedavgs_and_the_others_do_not_move():
    training = TrainingConfig(batch_size=8)
    method = METHODS["ifca"]()
    one = replace(method, phases=(Phase(on=(MODEL,), pick=Pick("pick")),))
    trainer, _, history = trained(one, training=training)
    _, _, wanted = trained(Method(), training=training)
    assert same(model_part(shared(history)), shared(wanted))
    first = trainer.partition.split(trainer.initial(3))[0]
    assert same(part(shared(history), "model_2"), part(first, "model_2"))


def test_other_initial_weights_have_the_same_entries_in_another_order():
    first = Trainer(mlp(), METHODS["ifca"](clusters=4), FULL).initial(3)
    for key, tensor in model_part(first).items():
        for name in NAMES[1:]:
            other = first[f"{name}/{key}"]
            assert torch.equal(other.flatten().sort().values, tensor.flatten().sort().values)
    kernels = [part(first, name)["head.weight"] for name in NAMES[1:]] + [first["head.weight"]]
    assert len({tuple(kernel.flatten().tolist()) for kernel in kernels}) == 4


def test_the_servers_mean_is_over_the_silos_that_picked():
    state = {"head.weight": torch.zeros(2), "model_2/head.weight": torch.zeros(2)}
    zero = torch.zeros(2)

    def update(weight, one, two):
        return Update("a", 1, {"head.weight": one, "model_2/head.weight": two}, weight, {})

    updates = [update(1.0, torch.tensor([1.0, 0.0]), zero), update(3.0, torch.tensor([5.0, 2.0]), zero)]
    roles = {"head.weight": Role.HEAD, "model_2/head.weight": Role.EXTRA}
    moved, memory = mean_of_members(state, updates, roles, {})
    assert moved["head.weight"].tolist() == [4.0, 1.5]
    assert not moved["model_2/head.weight"].any()
    assert not memory


def test_it_is_refused_under_privacy():
    assert any("pick" in problem for problem in private_problems(METHODS["ifca"]()))
