"""The server's step against numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from fedtl.errors import ConfigError, NotEnoughSilos
from fedtl.experiment.config.load import load_experiment
from fedtl.messages import Update
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role

ROLES = {"body.w": Role.BODY, "head.b": Role.HEAD, "body.n.running_mean": Role.STATS}
WEIGHTS = (3.0, 10.0, 1.0, 7.0, 2.0)


def state_of(generator):
    return {
        "body.n.running_mean": torch.randn(4, generator=generator),
        "body.w": torch.randn(3, 2, generator=generator),
        "head.b": torch.randn(2, generator=generator),
    }


def scene(silos=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shared = state_of(generator)
    return shared, [Update(f"s{i}", 1, state_of(generator), WEIGHTS[i]) for i in range(silos)]


def stacked(updates, name):
    return np.stack([update.delta[name].double().numpy() for update in updates])


def plain_mean(updates, name):
    return np.average(stacked(updates, name), axis=0, weights=[update.weight for update in updates])


def test_mean_is_weighted_by_examples():
    shared, updates = scene()
    moved, memory = ServerStep()(shared, updates, ROLES, {})
    assert memory == {}
    assert list(moved) == sorted(shared)
    for name in shared:
        np.testing.assert_allclose(moved[name], shared[name].numpy() + plain_mean(updates, name), atol=1e-5)


@pytest.mark.parametrize("silos", [1, 2, 3, 4, 5])
def test_median(silos):
    shared, updates = scene(silos)
    moved, _ = ServerStep("median")(shared, updates, ROLES, {})
    for name in ("body.w", "head.b"):
        wanted = shared[name].numpy() + np.median(stacked(updates, name), axis=0)
        np.testing.assert_allclose(moved[name], wanted, atol=1e-6)


@pytest.mark.parametrize("silos", [3, 4, 5])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.25, 0.4, 0.49])
def test_trimmed_is_scipys_and_leaves_out_at_least_one_at_each_end(silos, share):
    shared, updates = scene(silos)
    moved, _ = ServerStep("trimmed", share=share)(shared, updates, ROLES, {})
    for name in ("body.w", "head.b"):
        least = max(share, 1 / silos) if share else 0.0
        wanted = shared[name].numpy() + trim_mean(stacked(updates, name), least, axis=0)
        np.testing.assert_allclose(moved[name], wanted, atol=1e-6)


@pytest.mark.parametrize("silos", [3, 5, 9, 10, 25])
def test_a_trimmed_mean_is_that_of_the_silos_that_agree(silos):
    said = [torch.tensor([1e6 if number == 0 else 1.0]) for number in range(silos)]
    updates = [Update(f"s{number:02}", 1, {"body.w": one}, 1.0) for number, one in enumerate(said)]
    moved, _ = ServerStep("trimmed")({"body.w": torch.zeros(1)}, updates, ROLES, {})
    assert moved["body.w"].item() == 1.0


@pytest.mark.parametrize("silos", [1, 2])
def test_of_two_silos_none_can_be_trimmed(silos):
    shared, updates = scene(silos)
    with pytest.raises(NotEnoughSilos, match="needs 3"):
        ServerStep("trimmed")(shared, updates, ROLES, {})


@pytest.mark.parametrize("step", [ServerStep("median"), ServerStep("trimmed", share=0.2)])
def test_one_false_update_changes_a_robust_mean_by_no_more_than_the_others_differ(step):
    shared, updates = scene()
    liar = Update("s5", 1, {name: torch.full_like(value, 1e20) for name, value in shared.items()}, 1e6)
    moved, _ = step(shared, [*updates, liar], ROLES, {})
    for name in ("body.w", "head.b"):
        assert ((moved[name] - shared[name]).numpy() <= stacked(updates, name).max(axis=0) + 1e-5).all()


@pytest.mark.parametrize("settings", [{}, {"lr": 1.0}])
def test_sgd_with_a_step_of_one_is_the_mean(settings):
    shared, updates = scene()
    mean, _ = ServerStep()(shared, updates, ROLES, {})
    moved, _ = ServerStep("sgd", settings=settings)(shared, updates, ROLES, {})
    assert list(moved) == sorted(shared)
    for name in shared:
        assert torch.allclose(moved[name], mean[name], atol=1e-6)
        assert not moved[name].requires_grad


def three_rounds(step):
    """(shared, updates of the round, moved) of each of three rounds, with what the server remembers carried on."""
    shared, _ = scene()
    memory, found = {}, []
    for seed in (1, 2, 3):
        _, updates = scene(seed=seed)
        moved, memory = step(shared, updates, ROLES, memory)
        found.append((shared, updates, moved))
        shared = moved
    return found


def test_fedadam_over_three_rounds():
    """Reddi et al., 2021, with the bias corrections of Kingma and Ba, 2015, as torch has them."""
    lr, b1, b2, tau = 0.1, 0.8, 0.95, 1e-3
    step = ServerStep("adam", settings={"lr": lr, "betas": [b1, b2], "eps": tau})
    m, v = {}, {}
    for t, (shared, updates, moved) in enumerate(three_rounds(step), 1):
        for name in ("body.w", "head.b"):
            gradient = -plain_mean(updates, name)
            m[name] = b1 * m.get(name, 0) + (1 - b1) * gradient
            v[name] = b2 * v.get(name, 0) + (1 - b2) * gradient**2
            wanted = shared[name].numpy() - lr * (m[name] / (1 - b1**t)) / (
                np.sqrt(v[name] / (1 - b2**t)) + tau
            )
            np.testing.assert_allclose(moved[name], wanted, atol=1e-5)


def test_fedavgm_over_three_rounds():
    """Hsu et al., 2019: v = beta v + d, w = w + lr v."""
    velocity = {}
    for shared, updates, moved in three_rounds(ServerStep("sgd", settings={"lr": 0.5, "momentum": 0.9})):
        for name in ("body.w", "head.b"):
            velocity[name] = 0.9 * velocity.get(name, 0) + plain_mean(updates, name)
            np.testing.assert_allclose(moved[name], shared[name].numpy() + 0.5 * velocity[name], atol=1e-5)


@pytest.mark.parametrize("name", ["mean", *OPTIMIZERS])
def test_statistics_are_always_moved_by_their_plain_mean(name):
    settings = {} if name == "mean" else {"lr": 0.01}
    for shared, updates, moved in three_rounds(ServerStep(name, settings=settings)):
        statistics = "body.n.running_mean"
        wanted = shared[statistics].numpy() + plain_mean(updates, statistics)
        np.testing.assert_allclose(moved[statistics], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "median", "trimmed", *OPTIMIZERS])
def test_nothing_that_came_in_is_changed(name):
    """A server state that was kept can be resumed later, because the step does not overwrite the server's memory."""
    shared, updates = scene()
    step = ServerStep(name)
    once, memory = step(shared, updates, ROLES, {})
    kept = {tensor: value.clone() for tensor, value in once.items()}
    second, _ = step(once, updates, ROLES, memory)
    again, _ = step(once, updates, ROLES, memory)
    assert all(torch.equal(once[tensor], kept[tensor]) for tensor in kept)
    assert all(torch.equal(second[tensor], again[tensor]) for tensor in kept)
    fresh, fresh_updates = scene()
    assert all(torch.equal(shared[tensor], fresh[tensor]) for tensor in fresh)
    for update, same in zip(updates, fresh_updates, strict=True):
        assert all(torch.equal(update.delta[tensor], same.delta[tensor]) for tensor in fresh)


@pytest.mark.parametrize("name", ["mean", "median", "trimmed", "adam"])
def test_without_shared_tensors_nothing_changes(name):
    assert ServerStep(name)({}, [Update("a", 1, {}, 1.0), Update("b", 1, {}, 2.0)], {}, {}) == ({}, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "avg"}, "trimmed, trusted, sgd"),
        ({"name": "trimmed", "share": 0.5}, "method.server.share = 0.5 must be at least 0 and below 0.5"),
        ({"name": "trimmed", "share": -0.1}, "method.server.share"),
        (
            {"name": "adam", "settings": {"momentum": 0.9}},
            "method.server.momentum",
        ),
        ({"name": "mean", "settings": {"lr": 1.0}}, "method.server.lr"),
        ({"name": "sgd", "settings": {"params": []}}, "method.server.params"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ServerStep(**arguments)


@pytest.mark.parametrize("name", ["mean", "median", "trimmed", "adam"])
@pytest.mark.parametrize("role", [Role.STATS, Role.EXTRA, Role.SUMMARY])
def test_tensors_that_are_no_weights_change_by_their_plain_mean(name, role):
    shared, updates = scene()
    moved, _ = ServerStep(name)(shared, updates, {**ROLES, "head.b": role}, {})
    wanted = shared["head.b"].numpy() + plain_mean(updates, "head.b")
    np.testing.assert_allclose(moved["head.b"], wanted, atol=1e-5)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_silos_count_by_how_far_they_agree_with_trusted_ones():
    """Two rounds by hand, with numpy."""
    step, trusted = ServerStep("trusted", trusted=["s1", "s3"], pace=0.4), ("s1", "s3")
    weights, memory = {f"s{i}": 1.0 if f"s{i}" in trusted else 0.5 for i in range(5)}, {}
    for seed in (0, 1):
        shared, updates = scene(seed=seed)
        flat = {
            one.silo: np.concatenate(
                [one.delta[name].double().numpy().ravel() for name in ("body.w", "head.b")]
            )
            for one in updates
        }
        sizes = {one.silo: one.weight for one in updates}
        target = sum(sizes[name] * flat[name] for name in trusted)
        for name in flat.keys() - set(trusted):
            weights[name] = float(np.clip(weights[name] + 0.4 * cosine(target, flat[name]), 0, 1))
        after, memory = step(shared, updates, ROLES, memory)
        assert memory == pytest.approx(weights)
        for name in shared:
            mean = np.average(
                stacked(updates, name), axis=0, weights=[sizes[one] * weights[one] for one in sorted(sizes)]
            )
            np.testing.assert_allclose(after[name], shared[name].numpy() + mean, rtol=1e-5, atol=1e-6)


def test_a_silo_that_works_against_the_trusted_ones_ends_with_weight_0():
    step, memory = ServerStep("trusted", trusted=["s0"], pace=0.2), {}
    shared, (one, *_) = scene()
    against = Update("s1", 1, {name: -tensor for name, tensor in one.delta.items()}, 10.0)
    for _ in range(3):
        after, memory = step(shared, [one, against], ROLES, memory)
    assert memory == {"s0": 1.0, "s1": 0.0}
    for name in shared:
        np.testing.assert_allclose(after[name], shared[name] + one.delta[name], rtol=1e-6)
    # Nobody trusted answers: the weights stay; nobody counts: the model stays.
    after, memory = step(shared, [against], ROLES, memory)
    assert memory == {"s0": 1.0, "s1": 0.0}
    assert all(torch.equal(after[name], shared[name]) for name in shared)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["method.server.name=trusted"], "server.trusted"),
        (["method.server.trusted=['plain']"], "server.trusted"),
        (["method.server.name=trusted", "method.server.trusted=plain"], "list of silos"),
        (["method.server.name=trusted", "method.server.trusted=['plain']", "method.server.pace=0"], "pace"),
    ],
)
def test_settings_of_trusted_silos(settings, word):
    with pytest.raises(ConfigError, match=word):
        load_experiment("digits", settings)
