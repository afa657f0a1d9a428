"""The task's loss and the proximal term of FedProx, against numpy."""

import numpy as np
import pytest
import torch

from fedtl._util.labels import NO_LABEL
from fedtl.methods.l2sp import StartingPoint
from fedtl.methods.losses import (
    Batch,
    Computed,
    Forward,
    OnWeights,
    Pass,
    PerBatch,
    PerExample,
    Proximal,
    TaskLoss,
)
from fedtl.methods.registry import TERMS
from fedtl.methods.sets import SHARED, START


def forward_of(scores, y, domain=None, progress=0.0):
    n = len(y)
    batch = Batch(torch.zeros(n, 1), y, torch.zeros(n) if domain is None else domain)
    return Forward(batch, Computed(Pass(torch.zeros(n, 1), scores)), progress)


def test_cross_entropy_of_each_labelled_row():
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 3, NO_LABEL, 1, 1, NO_LABEL])
    out = forward_of(scores, y)
    s = scores.double().numpy()
    wanted = np.log(np.exp(s).sum(1)) - s[np.arange(6), y.clamp_min(0).numpy()]
    counts = TaskLoss().counts(out)
    assert counts.tolist() == [True, True, False, True, True, False]
    assert TaskLoss().losses(out).shape == (6,)
    np.testing.assert_allclose(TaskLoss().losses(out)[counts], wanted[counts.numpy()], rtol=1e-5)


def test_half_the_squared_error_of_each_row_with_a_value():
    scores = torch.tensor([[1.0], [2.0], [-1.0], [0.5]], requires_grad=True)
    y = torch.tensor([0.5, torch.nan, 2.0, 0.0])
    out = forward_of(scores, y)
    counts = TaskLoss().counts(out)
    assert counts.tolist() == [True, False, True, True]
    losses = TaskLoss().losses(out)
    np.testing.assert_allclose(losses[counts].detach(), [0.125, 4.5, 0.125])
    losses[counts].sum().backward()
    np.testing.assert_allclose(scores.grad[:, 0], [0.5, 0, -3, 0.5])


def test_a_row_without_a_label_gives_no_gradient():
    scores = torch.randn(3, 2, requires_grad=True)
    TaskLoss().losses(forward_of(scores, torch.tensor([NO_LABEL, 1, NO_LABEL]))).sum().backward()
    assert torch.equal(scores.grad[0], torch.zeros(2))
    assert torch.equal(scores.grad[2], torch.zeros(2))
    assert scores.grad[1].abs().sum() > 0


def test_labelled():
    zeros = torch.zeros(3)
    assert Batch(zeros, torch.tensor([0, -1, 2]), zeros).labelled.tolist() == [True, False, True]
    assert Batch(zeros, torch.tensor([0.0, torch.nan, -1.0]), zeros).labelled.tolist() == [True, False, True]


@pytest.mark.parametrize("mu", [0.3, 1e5])
def test_proximal_gives_the_minimum_of_its_penalty_and_the_squared_step(mu):
    """reach mu/2 ||u - received||^2 + 1/2 ||u - weight||^2 has no slope there, by autograd."""
    generator = torch.Generator().manual_seed(0)
    received = {"a": torch.randn(3, 2, generator=generator)}
    weight, sets = torch.randn(3, 2, generator=generator), {SHARED: received}
    u = Proximal(mu).proximal("a", weight, sets, 0.2).double().requires_grad_()
    (0.1 * mu * (u - received["a"]).pow(2).sum() + 0.5 * (u - weight).pow(2).sum()).backward()
    assert float(u.grad.abs().max()) < 1e-6 * (1 + mu)
    assert Proximal(mu).proximal("local", weight, sets, 0.2) is None
    assert Proximal(mu).gradient("a", weight, sets) is None


@pytest.mark.parametrize("name", list(TERMS))
def test_every_term_is_of_one_kind(name):
    term = TERMS[name]()
    assert sum(isinstance(term, kind) for kind in (PerExample, PerBatch, OnWeights)) == 1
    assert hash(term) == hash(TERMS[name]())


@pytest.mark.parametrize(("name", "strength", "centre"), [("body.a", 0.7, 1.0), ("head.a", 0.2, 0.0)])
def test_l2sp_gives_the_minimum_of_its_penalty_around_the_start_or_zero(name, strength, centre):
    generator = torch.Generator().manual_seed(0)
    start, weight = torch.randn(3, 2, generator=generator), torch.randn(3, 2, generator=generator)
    u = StartingPoint(0.7, 0.2).proximal(name, weight, {START: {name: start}}, 0.3).double().requires_grad_()
    penalty = 0.3 * strength / 2 * (u - centre * start).pow(2).sum()
    (penalty + 0.5 * (u - weight).pow(2).sum()).backward()
    assert float(u.grad.abs().max()) < 1e-6
    assert StartingPoint().proximal("aux.a", weight, {START: {}}, 0.3) is None
