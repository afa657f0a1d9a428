"""Methods that mix the shared model with a silo's own: their steps, on a linear regression, as numpy computes them."""

from dataclasses import replace

import numpy as np
import pytest

from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.training.trainer import Trainer
from tests.methods.test_pull import FULL, gradient, regression, vector
from tests.training.silos import silo_at, task_for


def silo_of(trainer):
    _, (silo, *_), _ = regression(METHODS["local"](), 1, FULL)
    return silo_at(trainer, "a", silo.data)


@pytest.mark.parametrize(("rate", "epochs"), [(0.3, 1), (5.0, 1), (4.0, 4)])
def test_fedalas_mask_takes_plain_steps_along_its_gradient_within_0_and_1(rate, epochs):
    """m = clip(m - rate * gradient (received - own), 0, 1) in each step; momentum and train.lr have no part in it."""
    method = METHODS["fedala"](mask_lr=rate, mask_epochs=epochs)
    training = replace(FULL, lr=0.7, momentum=0.9)
    trainer = Trainer(model_spec("linear", (4,), 0), replace(method, phases=method.phases[:1]), training)
    silo = silo_of(trainer)
    task = task_for(trainer, silo)
    received = vector(task.shared)
    silo.local |= {name: one - 0.5 for name, one in silo.local.items() if name.startswith("own/")}
    delta = trainer.fit(silo, task).delta
    mask = vector({name.removeprefix("mask/"): one for name, one in silo.local.items()})
    wanted, beyond, back = np.ones(5), np.zeros(5, bool), False
    for _ in range(epochs):
        step = rate * gradient(silo, received - 0.5 * (1 - wanted)) * 0.5
        back = back or bool((beyond & (wanted - step > 0) & (wanted - step < 1)).any())
        beyond |= (wanted - step < 0) | (wanted - step > 1)
        wanted = np.clip(wanted - step, 0, 1)
    assert 0 < (wanted < 1).sum() < 5  # some move, and some are at the bound
    assert back == (epochs > 1)  # a step from the limit that another one was stopped at
    np.testing.assert_allclose(mask, wanted, atol=1e-5)
    np.testing.assert_allclose(vector(delta), -0.5 * (1 - mask), atol=1e-5)


@pytest.mark.parametrize(("alpha", "epochs", "apart"), [(0.3, 1, 0.4), (0.9, 2, -1.5)])
def test_apfls_round_is_that_of_numpy(alpha, epochs, apart):
    """w by steps of its own; then v and alpha, within 0 and 1, by steps along the gradient of the mixture alpha v + (1 - alpha) w."""
    training = replace(FULL, epochs=epochs)
    trainer = Trainer(model_spec("linear", (4,), 0), METHODS["apfl"](alpha=alpha), training)
    silo = silo_of(trainer)
    task = task_for(trainer, silo)
    w = vector(task.shared)
    v = w + apart
    silo.local |= {name: one + apart for name, one in silo.local.items() if name.startswith("personal/")}
    delta = trainer.fit(silo, task).delta
    for _ in range(epochs):
        w = w - 0.1 * gradient(silo, w)
    alphas = [alpha]
    for _ in range(epochs):
        through = gradient(silo, alphas[-1] * v + (1 - alphas[-1]) * w)
        alphas.append(np.clip(alphas[-1] - 0.1 * through @ (v - w), 0, 1))
        v = v - 0.1 * alphas[-2] * through
    own = vector({name.removeprefix("personal/"): one for name, one in silo.local.items()})
    np.testing.assert_allclose(vector(task.shared) + vector(delta), w, atol=1e-5)
    np.testing.assert_allclose(own, v, atol=1e-5)
    np.testing.assert_allclose(float(silo.local["alpha/alpha"]), alphas[-1], atol=1e-5)
