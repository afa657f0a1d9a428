"""The losses that need no labels against their formulas in numpy and scipy, and the step that fits a body by them."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy

from fedtl.methods.entropy import Entropy
from fedtl.methods.infomax import InformationMaximisation
from fedtl.methods.losses import Batch, Computed, Forward, Pass, PerExample, mean_loss
from fedtl.methods.mcc import MinimumClassConfusion
from fedtl.methods.pseudo_label import PseudoLabel
from fedtl.methods.registry import SOURCE_FREE
from tests.methods.test_adaptation import finite_differences


def drawn(labelled, unlabelled, classes=4):
    generator = torch.Generator().manual_seed(3)
    scores = 2 * torch.randn(labelled + unlabelled, classes, generator=generator, dtype=torch.float64)
    domain = torch.cat([torch.zeros(labelled), torch.ones(unlabelled)])
    mixed = torch.randperm(len(domain), generator=generator)
    return scores, domain[mixed]


def value(term, scores, domain):
    batch = Batch(torch.zeros(len(scores), 1), torch.where(domain > 0, -1, 0).long(), domain)
    out = Forward(batch, Computed(Pass(torch.zeros(len(scores), 2), scores)))
    return mean_loss(term, out) if isinstance(term, PerExample) else term.loss(out)


def numpy_mcc(z, weight, temperature):
    """The double sums of the paper, over classes j and k and rows i; the rows' weights are constants in its gradient."""
    y, rows, classes = softmax(z / temperature, 1), *z.shape
    sure = 1 + np.exp(-scipy_entropy(y, axis=1))
    w = rows * sure / sure.sum()
    return _confusion(y, w, rows, classes) * weight / classes, w


def _confusion(y, w, rows, classes):
    c = np.zeros((classes, classes))
    for i in range(rows):
        for j in range(classes):
            for k in range(classes):
                c[j, k] += y[i, j] * w[i] * y[i, k]
    c = c / c.sum(1, keepdims=True)
    return sum(c[j, k] for j in range(classes) for k in range(classes) if j != k)


def numpy_pseudo(z, weight, sure):
    best = softmax(z, 1).max(1)
    kept = best >= sure
    return weight * (-log_softmax(z, 1).max(1) * kept).sum() / max(1, kept.sum())


FORMULAS = {
    "entropy": (Entropy(0.7), lambda z: 0.7 * scipy_entropy(softmax(z, 1), axis=1).mean()),
    "infomax": (
        InformationMaximisation(0.7, 0.5),
        lambda z: (
            0.7 * (scipy_entropy(softmax(z, 1), axis=1).mean() - 0.5 * scipy_entropy(softmax(z, 1).mean(0)))
        ),
    ),
    "mcc": (MinimumClassConfusion(0.7, 2.0), lambda z: numpy_mcc(z, 0.7, 2.0)[0]),
    "pseudo_label": (PseudoLabel(0.7, 0.6), lambda z: numpy_pseudo(z, 0.7, 0.6)),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("labelled", "unlabelled"), [(0, 5), (4, 7), (3, 1)])
def test_values_are_those_of_the_formula_on_rows_without_labels(name, labelled, unlabelled):
    term, formula = FORMULAS[name]
    scores, domain = drawn(labelled, unlabelled)
    np.testing.assert_allclose(value(term, scores, domain), formula(scores[domain > 0].numpy()), rtol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_those_of_the_formula_and_zero_at_labelled_rows(name):
    term, formula = FORMULAS[name]
    scores, domain = drawn(3, 6)
    unlabelled = domain > 0
    scores.requires_grad_()
    value(term, scores, domain).backward()
    assert torch.equal(scores.grad[~unlabelled], torch.zeros(3, 4, dtype=torch.float64))
    z = scores.detach()[unlabelled].numpy()
    if name == "mcc":
        w = numpy_mcc(z, 0.7, 2.0)[1]
        formula = lambda z: 0.7 / 4 * _confusion(softmax(z / 2.0, 1), w, 6, 4)  # noqa: E731
    np.testing.assert_allclose(scores.grad[unlabelled], finite_differences(formula, z), atol=1e-7)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_batch_without_such_rows_gives_a_loss_of_zero(name):
    scores, domain = drawn(4, 0)
    scores.requires_grad_()
    loss = value(FORMULAS[name][0], scores, domain)
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_every_such_loss_is_listed():
    assert FORMULAS.keys() == SOURCE_FREE.keys()
    for make in SOURCE_FREE.values():
        assert make().source_free
        assert make().needs_target
