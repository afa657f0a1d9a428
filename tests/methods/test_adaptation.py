"""The adaptation losses against their formulas in numpy, and their gradients against finite differences."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.methods.coral import Coral
from fedtl.methods.dann import DomainAdversarial
from fedtl.methods.losses import Batch, Computed, Forward, Pass
from fedtl.methods.mmd import MaximumMeanDiscrepancy


def forward_of(features, domain, aux=None, progress=0.5):
    n = len(features)
    batch = Batch(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), domain)
    return Forward(batch, Computed(Pass(features, torch.zeros(n, 2)), aux or nn.ModuleDict()), progress)


def drawn(sources, targets, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sources + targets, width, generator=generator, dtype=torch.float64)
    features[sources:] = features[sources:] * 1.7 + 0.4
    domain = torch.cat([torch.zeros(sources), torch.ones(targets)])
    mixed = torch.randperm(sources + targets, generator=generator)
    return features[mixed], domain[mixed]


def numpy_mmd(f, domain, weight, bandwidth=None):
    """The double sums of the paper; ``bandwidth`` given where the gradient holds it constant."""
    n = len(f)
    square = np.array([[((a - b) ** 2).sum() for b in f] for a in f])
    h = square.sum() / (n * (n - 1)) if bandwidth is None else bandwidth
    k = sum(np.exp(-square / (w * h)) for w in (0.25, 0.5, 1, 2, 4)) / 5
    s, t = domain == 0, domain == 1
    return weight * (k[np.ix_(s, s)].mean() + k[np.ix_(t, t)].mean() - 2 * k[np.ix_(s, t)].mean()), h


def numpy_coral(f, domain, weight):
    gap = np.cov(f[domain == 0], rowvar=False) - np.cov(f[domain == 1], rowvar=False)
    return weight / (4 * f.shape[1] ** 2) * np.linalg.norm(gap, "fro") ** 2


SIZES = [(5, 4), (2, 2), (3, 9)]


@pytest.mark.parametrize(("sources", "targets"), SIZES)
def test_mmd(sources, targets):
    features, domain = drawn(sources, targets)
    f, d = features.numpy(), domain.numpy()
    wanted, bandwidth = numpy_mmd(f, d, 0.7)
    features.requires_grad_()
    loss = MaximumMeanDiscrepancy(0.7).loss(forward_of(features, domain))
    np.testing.assert_allclose(loss.item(), wanted, rtol=1e-6)
    loss.backward()
    slopes = finite_differences(lambda x: numpy_mmd(x, d, 0.7, bandwidth)[0], f)
    np.testing.assert_allclose(features.grad, slopes, atol=1e-6)


@pytest.mark.parametrize(("sources", "targets"), SIZES)
def test_coral(sources, targets):
    features, domain = drawn(sources, targets)
    f, d = features.numpy(), domain.numpy()
    features.requires_grad_()
    loss = Coral(0.7).loss(forward_of(features, domain))
    np.testing.assert_allclose(loss.item(), numpy_coral(f, d, 0.7), rtol=1e-9)
    loss.backward()
    np.testing.assert_allclose(
        features.grad, finite_differences(lambda x: numpy_coral(x, d, 0.7), f), atol=1e-6
    )


def finite_differences(function, at, size=1e-5):
    slopes = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += size
        down[index] -= size
        slopes[index] = (function(up) - function(down)) / (2 * size)
    return slopes


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e4])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_mmd_does_not_depend_on_where_the_features_lie(offset, scale):
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(16, 64, generator=generator), torch.randn(16, 64, generator=generator) + 0.5
    features, domain = (torch.cat([s, t]) + offset) * scale, torch.arange(32).ge(16).float()
    loss = float(MaximumMeanDiscrepancy().loss(forward_of(features, domain)))
    assert loss == pytest.approx(numpy_mmd(features.double().numpy(), domain.numpy(), 1.0)[0], abs=1e-5)
    assert loss == pytest.approx(0.126, abs=1e-3)


@pytest.mark.parametrize("term", [MaximumMeanDiscrepancy(), Coral()])
def test_the_same_rows_in_both_domains_have_distance_zero(term):
    rows = drawn(6, 0)[0]
    features = torch.cat([rows, rows])
    domain = torch.cat([torch.zeros(6), torch.ones(6)])
    assert term.loss(forward_of(features, domain)).item() == pytest.approx(0, abs=1e-12)
    assert term.loss(forward_of(torch.cat([rows, 3 * rows + 1]), domain)).item() > 0.01


@pytest.mark.parametrize("term", [MaximumMeanDiscrepancy(), Coral()])
@pytest.mark.parametrize(("sources", "targets"), [(4, 0), (4, 1), (1, 4), (0, 4), (1, 1)])
def test_too_few_rows_give_a_loss_of_zero(term, sources, targets):
    features, domain = drawn(sources, targets)
    features.requires_grad_()
    loss = term.loss(forward_of(features, domain))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_features_that_are_all_the_same_give_a_finite_loss():
    domain = torch.tensor([0.0, 0.0, 1.0, 1.0])
    for term in (MaximumMeanDiscrepancy(), Coral()):
        features = torch.ones(4, 3, requires_grad=True)
        loss = term.loss(forward_of(features, domain))
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert torch.isfinite(features.grad).all()


def discriminator(width=3):
    torch.manual_seed(0)
    return nn.ModuleDict(DomainAdversarial().modules(width, (width,))).double()


def test_dann_is_binary_cross_entropy_row_by_row():
    aux = discriminator()
    features, domain = drawn(4, 3)
    losses = DomainAdversarial().losses(forward_of(features, domain.double(), aux))
    with torch.no_grad():
        z = aux["domain"](features)[:, 0].numpy()
    d = domain.numpy()
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(losses.detach(), -(d * np.log(p) + (1 - d) * np.log(1 - p)), rtol=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_dann_reverses_the_bodys_gradient_and_not_the_discriminators(progress, weight):
    features, domain = drawn(5, 4)
    domain = domain.double()
    strength = 2 / (1 + np.exp(-10 * progress)) - 1

    aux, plain = discriminator(), features.clone().requires_grad_()
    F.binary_cross_entropy_with_logits(aux["domain"](plain)[:, 0], domain).backward()
    wanted = [weight_.grad.clone() for weight_ in aux.parameters()]
    slopes = finite_differences(
        lambda x: F.binary_cross_entropy_with_logits(discriminator_scores(aux, x), domain).item(),
        features.numpy(),
    )

    aux, through = discriminator(), features.clone().requires_grad_()
    out = forward_of(through, domain, aux, progress)
    term = DomainAdversarial(weight)
    assert term.counts(out).all()
    term.losses(out).mean().backward()
    assert torch.allclose(through.grad, -weight * strength * plain.grad, atol=1e-12)
    np.testing.assert_allclose(through.grad, -weight * strength * slopes, atol=1e-6)
    for found, unreversed in zip(aux.parameters(), wanted, strict=True):
        assert torch.allclose(found.grad, unreversed)
        assert unreversed.abs().sum() > 0


def discriminator_scores(aux, x):
    with torch.no_grad():
        return aux["domain"](torch.from_numpy(x))[:, 0]


@pytest.mark.parametrize("term", [MaximumMeanDiscrepancy, Coral, DomainAdversarial])
def test_a_term_is_short_and_needs_a_second_domain(term):
    assert len(inspect.getsource(term).splitlines()) < 40
    assert term().needs_target
