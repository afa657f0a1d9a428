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


@pytest.mark.parametrize("rate", [0.3, 5.0])
def test_fedalas_mask_takes_a_plain_step_along_its_gradient_within_0_and_1(rate):
    """m = 1 - rate * gradient (received - own); momentum and train.lr have no part in it."""
    method = METHODS["fedala"](mask_lr=rate)
    training = replace(FULL, lr=0.7, momentum=0.9)
    trainer = Trainer(model_spec("linear", (4,), 0), replace(method, phases=method.phases[:1]), training)
    silo = silo_of(trainer)
    task = task_for(trainer, silo)
    received = vector(task.shared)
    silo.local |= {name: one - 0.5 for name, one in silo.local.items() if name.startswith("own/")}
    delta = trainer.fit(silo, task).delta
    mask = vector({name.removeprefix("mask/"): one for name, one in silo.local.items()})
    step = rate * gradient(silo, received) * 0.5
    wanted = np.clip(1 - step, 0, 1)
    assert 0 < (wanted < 1).sum() < 5  # some move, and some are at the bound
    np.testing.assert_allclose(mask, wanted, atol=1e-5)
    np.testing.assert_allclose(vector(delta), -0.5 * (1 - mask), atol=1e-5)


def test_apfls_round_is_that_of_numpy():
    """w by a step of its own; then v and alpha by a step along the gradient of the mixture alpha v + (1 - alpha) w."""
    trainer = Trainer(model_spec("linear", (4,), 0), METHODS["apfl"](alpha=0.3), FULL)
    silo = silo_of(trainer)
    task = task_for(trainer, silo)
    v, alpha = vector(task.shared) + 0.4, 0.3
    silo.local |= {name: one + 0.4 for name, one in silo.local.items() if name.startswith("personal/")}
    delta = trainer.fit(silo, task).delta
    w = vector(task.shared) - 0.1 * gradient(silo, vector(task.shared))
    through = gradient(silo, alpha * v + (1 - alpha) * w)
    own = vector({name.removeprefix("personal/"): one for name, one in silo.local.items()})
    np.testing.assert_allclose(vector(task.shared) + vector(delta), w, atol=1e-5)
    np.testing.assert_allclose(own, v - 0.1 * alpha * through, atol=1e-5)
    np.testing.assert_allclose(float(silo.local["alpha/alpha"]), alpha - 0.1 * through @ (v - w), atol=1e-5)
