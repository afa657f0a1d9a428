"""Models that are pulled together, against recursions and closed forms in numpy, at any strength of the pull."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.methods import pull
from fedtl.methods.base import Method, Phase
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import part
from fedtl.models.registry import model_spec
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.methods.test_laws import LATER, model_of, shared, trained, used
from tests.training.silos import InProcess, same, silo_at, task_for

FULL = TrainingConfig(lr=0.1, momentum=0.0, batch_size=1000)
FAST = replace(FULL, lr=0.4)
STRENGTHS = [0.0, 0.7, 40.0, 1e6, float("inf")]


def rows(seed, n, slope):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    y = x @ torch.tensor(slope) + 0.3 * torch.randn(n, generator=generator) + 0.2 * seed
    return Dataset(x, y)


SLOPES = ([1.0, 0.5, -1.0, 0.2], [0.8, 0.7, -1.1, 0.0], [-2.0, 3.0, 1.0, -1.0])  # the last silo is far


def regression(method, rounds, training, sizes=(20, 20, 20)):
    """The trainer, the silos and the rounds of linear regressions at three silos."""
    trainer = Trainer(model_spec("linear", (4,), 0), method, training)
    silos = [
        silo_at(trainer, name, SiloDataset(rows(k, n, slope), rows(k + 9, 40, slope), ()))
        for k, (name, n, slope) in enumerate(zip("abc", sizes, SLOPES, strict=True))
    ]
    first, _ = trainer.partition.split(trainer.initial(1))
    plan = FederationConfig("test", 0, rounds, method.server or ServerStep())
    state = ServerState(0, first)
    return trainer, silos, list(run_rounds(InProcess(trainer, silos), plan, state, trainer.partition.roles))


def vector(model):
    return np.append(model["head.weight"].double().numpy().ravel(), float(model["head.bias"]))


def design(silo):
    x, y = silo.data.train.x.double().numpy(), silo.data.train.y.double().numpy()
    return np.c_[x, np.ones(len(x))], y


def gradient(silo, v):
    x, y = design(silo)
    return x.T @ (x @ v - y) / len(y)


def finished(trainer, silos, history):
    models = [used(trainer, silo, history) for silo in silos]
    return np.stack([vector(model) for model in models]), vector(shared(history))


def test_an_endless_pull_is_the_whole_way_also_of_a_weight_that_does_not_move():
    """body_lr = 0 gives the body a reach of 0, and infinity times 0 is no number."""
    reach = torch.tensor([0.0, 0.1, torch.inf])
    assert pull.squared(torch.inf, reach).tolist() == [1, 1, 1]
    assert pull.squared(0.0, reach).tolist() == [0, 0, 0]
    assert pull.unsquared(torch.inf, reach, torch.tensor(2.0)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("mu", STRENGTHS)
def test_mrmtls_rounds_are_those_of_numpy(mu):
    """Forward-backward steps: pulled by T mu / (1 + T mu) of the way, then gradient steps of reach T on the loss alone."""
    training = replace(FULL, epochs=3)
    trainer, silos, history = regression(METHODS["mrmtl"](mu=mu), 4, training, (20, 30, 10))
    weights = np.array([20, 30, 10]) / 60
    start = vector(trainer.initial(1))
    v, w, reach = np.stack([start] * 3), start, 3 * 0.1
    share = 1.0 if np.isinf(mu) else mu * reach / (1 + mu * reach)
    for _ in range(4):
        v = v + share * (w - v)
        for _ in range(3):
            v = v - 0.1 * np.stack([gradient(silo, one) for silo, one in zip(silos, v, strict=True)])
        w = weights @ v
    models, mean = finished(trainer, silos, history)
    np.testing.assert_allclose(mean, w, atol=1e-5)
    np.testing.assert_allclose(models, v + share * (w - v), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.7, *(pytest.param(mu, marks=pytest.mark.nightly) for mu in (0.05, 10.0))])
def test_mrmtl_minimises_the_papers_objective(mu):
    """sum_k loss_k(v_k) + mu/2 ||v_k - mean||^2, whose minimum is the solution of one linear system."""
    _, silos, _ = found = regression(METHODS["mrmtl"](mu=mu), 150, FAST)
    systems, right = np.zeros((15, 15)), np.zeros(15)
    for k, silo in enumerate(silos):
        x, y = design(silo)
        at = slice(5 * k, 5 * k + 5)
        systems[at, at], right[at] = x.T @ x / len(y), x.T @ y / len(y)
    systems += mu * np.kron(np.eye(3) - np.full((3, 3), 1 / 3), np.eye(5))
    models, _ = finished(*found)
    np.testing.assert_allclose(models.ravel(), np.linalg.solve(systems, right), atol=1e-3)


@pytest.mark.parametrize("mu", STRENGTHS)
def test_armuls_rounds_are_those_of_numpy(mu):
    trainer, silos, history = regression(METHODS["armul"](mu=mu), 4, replace(FULL, epochs=2))
    start = vector(trainer.initial(1))
    v, w = np.stack([start] * 3), start

    def pulled(v, w):
        away = v - w
        length = np.linalg.norm(away, axis=1, keepdims=True)
        return w + away * np.maximum(0, 1 - mu * 0.2 / np.maximum(length, 1e-30))

    for _ in range(4):
        before = v = pulled(v, w)
        for _ in range(2):
            v = v - 0.1 * np.stack([gradient(silo, one) for silo, one in zip(silos, v, strict=True)])
        w = w + (v - before).mean(0)
    models, centre = finished(trainer, silos, history)
    np.testing.assert_allclose(centre, w, atol=1e-5)
    np.testing.assert_allclose(models, pulled(v, w), atol=1e-5)


@pytest.mark.slow
def test_armul_minimises_the_papers_objective_and_its_far_silo_detaches():
    """The conditions of Karush, Kuhn and Tucker: a force of at most mu, of mu where a model is not the centre, 0 in sum."""
    mu = 0.8
    _, silos, _ = found = regression(METHODS["armul"](mu=mu), 150, FAST)
    models, centre = finished(*found)
    forces = np.stack([gradient(silo, v) for silo, v in zip(silos, models, strict=True)])
    away = models - centre
    lengths = np.linalg.norm(away, axis=1)
    assert (lengths < 1e-6).tolist() == [True, True, False]
    assert (np.linalg.norm(forces, axis=1)[:2] < mu).all()
    np.testing.assert_allclose(forces[2], -mu * away[2] / lengths[2], atol=1e-3)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-3)
    # A centre that is a mean lies far from the two silos that are alike, and armul's does not.
    alike = finished(*regression(METHODS["mrmtl"](mu=mu), 150, FAST))[1]
    assert np.linalg.norm(centre - models[0]) < 1e-6 < 0.5 < np.linalg.norm(alike - models[0])


@pytest.mark.parametrize("name", ["mrmtl", "armul"])
def test_an_infinite_pull_is_fedavg(name):
    """Bit for bit, in training with momentum and BatchNorm; the norms' statistics stay at the silo."""
    training = TrainingConfig(batch_size=8, epochs=2)
    trainer, silos, history = trained(METHODS[name](mu=float("inf")), training=training)
    _, _, wanted = trained(replace(LATER, shared=trainer.method.shared), training=training)
    assert same(shared(history), shared(wanted))
    for silo in silos:
        found, model = used(trainer, silo, history), model_of(silo, history)
        assert all(torch.equal(found[key], model[key]) for key in shared(history))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mu", [0.3, 1000.0, float("inf")])
def test_dittos_own_model_minimises_its_objective_whatever_the_strength_and_the_momentum(mu, momentum):
    """loss(v) + mu/2 ||v - received||^2; steps along its gradient diverge where lr mu / (1 - m) > 2."""
    training = replace(FULL, lr=0.2, momentum=momentum, epochs=150)
    trainer, silos, _ = regression(METHODS["ditto"](mu=mu), 1, training)
    received = vector(trainer.initial(1))
    for silo in silos:
        (x, y), own = design(silo), vector(part(silo.local, "personal"))
        wanted = received
        if np.isfinite(mu):
            wanted = np.linalg.solve(x.T @ x / len(y) + mu * np.eye(5), x.T @ y / len(y) + mu * received)
        np.testing.assert_allclose(own, wanted, atol=1e-4)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1e4])
def test_a_step_of_fedprox_is_the_implicit_step(mu):
    trainer, silos, _ = regression(Method(), 1, FULL)
    prox = replace(trainer, method=METHODS["fedprox"](mu=mu), training=replace(FULL, epochs=2))
    silo, start = silos[0], vector(trainer.initial(1))
    task = task_for(trainer, silo)
    w = start
    for _ in range(2):
        w = (w - 0.1 * gradient(silo, w) + 0.1 * mu * start) / (1 + 0.1 * mu)
    delta = prox.fit(silo, replace(task, shared=trainer.initial(1))).delta
    np.testing.assert_allclose(start + vector(delta), w, atol=1e-5)


def test_a_silo_that_comes_late_starts_from_the_mean():
    trainer, silos, history = regression(METHODS["mrmtl"](mu=0.1), 3, FULL)
    late = silo_at(trainer, "late", silos[0].data)
    assert same(model_of(late, history), used(trainer, late, history))


def test_a_phase_of_no_epochs_takes_no_steps_and_computes_from_the_sets():
    def doubled(sets):
        return {name: 2 * tensor for name, tensor in sets["received"].items()}

    trainer, _, history = regression(
        Method(phases=(Phase(epochs=0, through=doubled, into="model"),)), 1, FULL
    )
    np.testing.assert_allclose(vector(shared(history)), 2 * vector(trainer.initial(1)), rtol=1e-6)


# A grid of strengths


GRID = {"mu": 0.7, "grid": (0.0, 0.7, float("inf"))}


def test_a_grid_changes_nothing_of_what_is_sent_and_holds_both_ends():
    training = replace(FULL, epochs=2)
    trainer, silos, history = regression(METHODS["mrmtl"](**GRID), 3, training)
    _, others, plain = regression(METHODS["mrmtl"](mu=0.7), 3, training)
    _, alone, _ = regression(Method(shared=frozenset()), 3, training)
    assert same(shared(history), shared(plain))
    assert [slot.name for slot in trainer.method.slots] == ["personal", "at_0", "at_inf", "reach"]
    assert not any(slot.crosses for slot in trainer.method.slots)
    zero, infinite = trainer.method.finish[0].others
    for silo, other, single in zip(silos, others, alone, strict=True):
        sets = trainer.sets(trainer.partition.join(shared(history), silo.local))
        assert same(part(silo.local, "personal"), part(other.local, "personal"))
        np.testing.assert_allclose(vector(zero(sets)), vector(single.local), atol=1e-6)
        assert same(infinite(sets), shared(history))


@pytest.mark.slow
def test_a_silo_uses_another_strength_only_if_its_validation_rows_clearly_say_so():
    """scipy's paired test of the losses decides: the far silo detaches."""
    trainer, silos, history = regression(METHODS["mrmtl"](mu=5.0, grid=(0.0, "inf")), 60, FAST)
    silos[0].data = replace(silos[0].data, val=silos[0].data.val.take(torch.arange(1)))
    numbers = []
    for silo in silos:
        sets = trainer.sets(trainer.partition.join(shared(history), silo.local))
        step = trainer.method.finish[0]
        models = [through(sets) for through in (step.through, *step.others)]
        x, y = silo.data.val.x.double().numpy(), silo.data.val.y.double().numpy()
        losses = [0.5 * (np.c_[x, np.ones(len(x))] @ vector(model) - y) ** 2 for model in models]
        best = int(np.argmin([loss.mean() for loss in losses]))
        sure = (
            len(y) > 1 and best and ttest_rel(losses[0], losses[best], alternative="greater").pvalue < 0.025
        )
        numbers.append(best if sure else 0)
        assert same(used(trainer, silo, history), models[numbers[-1]])
    assert numbers[0] == 0  # one row is clear about nothing
    assert numbers[2] == 1


def test_a_grid_is_refused_under_privacy_and_one_strength_is_not():
    assert not list(private_problems(METHODS["mrmtl"](mu=0.7)))
    (problem,) = private_problems(METHODS["mrmtl"](**GRID))
    assert "grid" in problem
