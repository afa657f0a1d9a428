"""
Each method that keeps something in addition to the model obeys a law: at an extreme value of a setting it equals another
method bit for bit.
"""

from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import TaskLoss
from fedtl.methods.registry import METHODS, SELF_SUPERVISED, TERMS
from fedtl.methods.sets import model_part, part
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import data_of, federate, mlp, same, silo_at, smooth, task_for

PLAIN = TrainingConfig(lr=0.1, momentum=0.0, batch_size=8)
LATER = Method(phases=(Phase(epochs=0), Phase()))  # FedAvg whose training draws as a second phase
LATER_ALONE = replace(LATER, shared=frozenset())


def silos_at(trainer):
    return [silo_at(trainer, name, data_of(seed, 12 + seed)) for seed, name in enumerate("abc")]


def trained(method, rounds=2, training=PLAIN):
    """The trainer, the silos and the rounds of a small federation."""
    trainer = Trainer(mlp(), method, training)
    silos = silos_at(trainer)
    return trainer, silos, federate(trainer, silos, rounds)


def shared(history):
    return history[-1].after.shared


def used(trainer, silo, history):
    return tuned_model(
        trainer, silo, replace(task_for(trainer, silo), round=3, rounds=2, shared=shared(history))
    )


def model_of(silo, history):
    return model_part(silo.local | shared(history))


@pytest.mark.parametrize("training", [PLAIN, TrainingConfig(batch_size=8, epochs=2)])
@pytest.mark.parametrize(
    ("name", "alone"),
    [("ditto", LATER_ALONE), ("mrmtl", LATER_ALONE), ("armul", LATER_ALONE), ("apfl", LATER_ALONE)],
)
def test_without_a_pull_the_own_model_is_that_of_a_silo_alone(name, alone, training):
    settings = {"alpha": 1.0, "adaptive": False} if name == "apfl" else {"mu": 0.0}
    trainer, silos, history = trained(METHODS[name](**settings), training=training)
    other, others, without = trained(alone, training=training)
    for silo, single in zip(silos, others, strict=True):
        own = part(silo.local, "personal")
        if name in ("apfl", "armul"):
            # Equal within rounding: apfl trains through a mixture, and armul adds and subtracts the centre.
            assert all(torch.allclose(own[key], single.local[key], atol=1e-5) for key in own)
        else:
            assert same(own, single.local)
            assert same(used(trainer, silo, history), used(other, single, without))


@pytest.mark.parametrize("name", ["ditto", "mrmtl", "armul"])
def test_a_further_term_acts_on_the_own_model(name):
    """Twice the task's loss in all: without a pull the own model is that of a silo alone at twice the learning rate."""
    _, silos, _ = trained(METHODS[name](mu=0.0).plus(TaskLoss()))
    _, others, _ = trained(LATER_ALONE, training=replace(PLAIN, lr=0.2))
    for silo, single in zip(silos, others, strict=True):
        own = part(silo.local, "personal")
        assert all(torch.allclose(own[key], single.local[key], atol=1e-5) for key in own)


@pytest.mark.parametrize(
    ("name", "settings"), [("ditto", {"mu": 3.0}), ("mrmtl", {"mu": 3.0}), ("armul", {"mu": 3.0})]
)
def test_a_pull_draws_the_own_model_nearer(name, settings):
    def distance(mu):
        trainer, silos, history = trained(METHODS[name](mu=mu))
        weights = [key for key, _ in trainer.net(3).named_parameters()]
        models = [used(trainer, silo, history) for silo in silos]
        return sum(
            float((model[key] - shared(history)[key]).pow(2).sum()) for model in models for key in weights
        )

    assert distance(settings["mu"]) < 0.7 * distance(0.0)


def test_mrmtl_sends_its_own_model():
    _, silos, history = trained(METHODS["mrmtl"](), 1)
    sizes = np.array([len(silo.data.train) for silo in silos], float)
    for key, tensor in shared(history).items():
        own = np.stack([part(silo.local, "personal")[key].double().numpy() for silo in silos])
        np.testing.assert_allclose(tensor, np.average(own, 0, sizes), atol=1e-6)


@pytest.mark.parametrize("name", ["ditto", "apfl", "moon", "fedala"])
def test_the_shared_model_is_fedavgs(name):
    """At these settings the local tensors of a method do not change what it shares."""
    settings = {"moon": {"mu": 0.0}, "fedala": {"mask_epochs": 0}}.get(name, {})
    _, _, history = trained(METHODS[name](**settings))
    _, _, wanted = trained(LATER if name == "fedala" else Method())
    plain = {key: tensor for key, tensor in shared(history).items() if not key.startswith("aux.")}
    assert same(plain, shared(wanted))
    assert bool(plain.keys() != shared(history).keys()) == (name == "moon")


def test_apfl_without_an_own_share_uses_the_shared_model():
    trainer, silos, history = trained(METHODS["apfl"](alpha=0.0, adaptive=False))
    first = trainer.initial(3)
    for silo in silos:
        found, own = used(trainer, silo, history), part(silo.local, "personal")
        for key, _ in trainer.net(3).named_parameters():
            assert torch.equal(own[key], first[key])
            assert torch.equal(found[key], shared(history)[key])


def test_apfl_learns_alpha_and_uses_the_mixture():
    trainer, silos, history = trained(METHODS["apfl"](alpha=0.5))
    alphas = [float(silo.local["alpha/alpha"]) for silo in silos]
    assert all(alpha != 0.5 for alpha in alphas)
    for silo, alpha in zip(silos, alphas, strict=True):
        found, model, own = (
            used(trainer, silo, history),
            model_of(silo, history),
            part(silo.local, "personal"),
        )
        for key, _ in trainer.net(3).named_parameters():
            np.testing.assert_allclose(
                found[key], alpha * own[key].numpy() + (1 - alpha) * model[key].numpy(), atol=1e-5
            )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_scaffolds_first_round_is_fedavgs_and_its_control_the_mean_gradient(momentum):
    training = replace(PLAIN, momentum=momentum)
    trainer, silos, history = trained(METHODS["scaffold"](), 1, training)
    other, others, wanted = trained(Method(), 1, training)
    assert same(model_part(shared(history)), shared(wanted))
    first = trainer.initial(3)
    sizes = [len(silo.data.train) for silo in silos]
    for silo, single in zip(silos, others, strict=True):
        task = task_for(other, single)
        delta = other.fit(single, task).delta
        steps = -(-len(silo.data.train) // 8)
        reach = 0.1 * sum((1 - momentum**t) / (1 - momentum) for t in range(1, steps + 1))
        control = part(silo.local, "own_control")
        for key, tensor in control.items():
            np.testing.assert_allclose(tensor, -delta[key].numpy() / reach, rtol=1e-4, atol=1e-6)
        assert control.keys() == {key for key, _ in trainer.net(3).named_parameters()}
    for key in part(shared(history), "control"):
        own = [silo.local[f"own_control/{key}"].double().numpy() for silo in silos]
        np.testing.assert_allclose(shared(history)[f"control/{key}"], np.average(own, 0, sizes), atol=1e-6)
    assert first["control/head.weight"].abs().sum() == 0


def test_scaffolds_second_round_adds_c_minus_its_own_to_each_gradient():
    """One full batch, so the round is one step: w - lr (g + c - c_i), with g by autograd."""
    training = replace(PLAIN, batch_size=1000)
    trainer, silos, history = trained(METHODS["scaffold"](), 1, training)
    silo, after = silos[0], shared(history)
    kept = {key: tensor.clone() for key, tensor in silo.local.items()}
    delta = trainer.fit(silo, replace(task_for(trainer, silo), round=2, shared=after)).delta
    net = mlp().net(3).train()
    net.load_state_dict(model_part(after | kept))
    torch.nn.functional.cross_entropy(net(silo.data.train.x), silo.data.train.y).backward()
    for key, weight in net.named_parameters():
        wanted = -0.1 * (weight.grad + after[f"control/{key}"] - kept[f"own_control/{key}"])
        assert torch.allclose(delta[key], wanted, atol=1e-6), key


def test_scaffold_needs_sgd():
    with pytest.raises(ConfigError, match="train.optimizer"):
        Trainer(mlp(), METHODS["scaffold"](), replace(PLAIN, optimizer="adam"))


def test_fedala_begins_with_a_mixture_of_the_received_and_its_own_model():
    method = METHODS["fedala"](mask_epochs=2)
    trainer = Trainer(mlp(), replace(method, phases=method.phases[:1]), PLAIN)
    silo = silo_at(trainer)
    silo.local = {
        name: tensor + 0.5 if name.startswith("own/head.") else tensor for name, tensor in silo.local.items()
    }
    before, task = dict(silo.local), task_for(trainer, silo)
    delta = trainer.fit(silo, task).delta
    mask = part(silo.local, "mask")
    assert mask.keys() == {"head.weight", "head.bias"}
    assert any(not torch.equal(tensor, torch.ones_like(tensor)) for tensor in mask.values())
    for key, tensor in mask.items():
        own, received = before[f"own/{key}"], task.shared[key]
        mixture = own + (received - own) * tensor.clamp(0, 1)
        assert torch.allclose(task.shared[key] + delta[key], mixture, atol=1e-6)
    others = [key for key in delta if key not in mask]
    assert not any(delta[key].any() for key in others)


def test_moon_pulls_features_towards_the_received_model():
    """After the first round the silo's last model and the received one differ, so the contrast has an effect."""
    _, _, history = trained(METHODS["moon"](mu=5.0), 1)
    _, _, plain = trained(Method(), 1)
    first, second = (trained(METHODS["moon"](mu=mu), 2)[2] for mu in (0.0, 5.0))
    assert not torch.equal(shared(first)["head.weight"], shared(second)["head.weight"])
    # In round 1 both references are the first model: the cosines are equal, and the loss is mu log 2 for every example.
    assert torch.allclose(shared(history)["head.weight"], shared(plain)["head.weight"], atol=1e-6)


def test_moon_keeps_its_last_model():
    trainer, silos, _ = trained(METHODS["moon"](), 1)
    silo = silos[0]
    task = task_for(trainer, silo)
    silo.local = trainer.partition.split(trainer.initial(3))[1]
    delta = trainer.fit(silo, task).delta
    previous = part(silo.local, "previous")
    for key, tensor in delta.items():
        assert torch.equal(previous[key], task.shared[key] + tensor) or torch.allclose(
            previous[key], task.shared[key] + tensor, atol=1e-6
        )


def test_terms_of_weight_0_change_nothing():
    """All but randconv, which is for images, at once, also in the second round, when summaries were received; cdan and dann have the module
    of silo_dann.
    """
    weights = ("weight", "mu", "alpha", "beta")
    terms = [
        make(**{name: 0.0 for name in signature(make).parameters if name in weights})
        for name, make in TERMS.items()
        if name not in ("cdan", "dann", "randconv", *SELF_SUPERVISED)
    ]

    def rounds(method):
        trainer = Trainer(smooth(), method, PLAIN)
        return shared(federate(trainer, [silo_at(trainer, data=data_of(1, 8))], 2))

    found, wanted = rounds(Method().plus(*terms)), rounds(Method())
    assert sum(name.startswith("summary/") and bool(tensor.any()) for name, tensor in found.items()) == 6
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
