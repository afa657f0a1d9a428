"""Random features against the exact kernel, mean embeddings against numpy, and the loss between silos against its law."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtl._util.labels import NO_LABEL
from fedtl.errors import ConfigError
from fedtl.methods.base import Method
from fedtl.methods.group_means import group_means
from fedtl.methods.losses import Batch, Computed, Forward, Pass
from fedtl.methods.mean_embedding import Embedding, MeanEmbedding
from fedtl.methods.random_features import RandomFeatures, unit
from fedtl.methods.silo_mmd import JointDiscrepancy, SiloMeanDiscrepancy
from fedtl.training.trainer import Trainer
from tests.training.silos import FULL_BATCH, mlp

WIDTHS = (0.5, 1.0, 2.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def out_of(features, y, domain=None, scores=None, summaries=None, layers=None):
    n = len(y)
    domain = (y == NO_LABEL).float() if domain is None else domain
    given = Pass(features, torch.zeros(n, 3) if scores is None else scores, layers or {})
    return Forward(Batch(torch.zeros(n, 1), y, domain), Computed(given), summaries=summaries or {})


def kernel(a, b, widths=WIDTHS):
    square = ((a[:, None] - b[None]) ** 2).sum(-1)
    return np.mean([np.exp(-square / (2 * h**2)) for h in widths], axis=0)


@pytest.mark.parametrize("widths", [(1.0,), (0.5,), WIDTHS])
def test_random_features_have_length_1_and_the_kernel_as_inner_product(widths):
    x, many = normal(20, 6), RandomFeatures(widths, frequencies=8_000)
    phi = many.of(x)
    np.testing.assert_allclose(phi.norm(dim=1), 1, rtol=1e-12)
    # The mean of cos over 8,000 directions: its standard deviation is at most 0.7 / sqrt(20,000) = 0.005.
    np.testing.assert_allclose(phi @ phi.T, kernel(x.numpy(), x.numpy(), widths), atol=0.035)
    assert torch.equal(phi, RandomFeatures(widths, 8_000).of(x))
    assert not torch.allclose(phi, RandomFeatures(widths, 8_000, seed=1).of(x), atol=0.01)


def test_unit_features_do_not_depend_on_scale_and_offset():
    x = normal(5, 7)
    np.testing.assert_allclose(unit(x), unit(30 * x + 4), atol=1e-12)
    np.testing.assert_allclose(unit(x).norm(dim=1), 1)
    assert torch.equal(unit(torch.ones(2, 3)), torch.zeros(2, 3))


def rows_of(summary, out):
    rows = summary.rows(out)
    assert rows.shape[1:] == summary.shape(out.features.shape[1], out.scores.shape[1])
    return rows


@pytest.mark.parametrize("by_label", [False, True])
@pytest.mark.parametrize("layers", [("features",), ("features", "scores")])
@pytest.mark.parametrize("joint", [False, True])
def test_each_row_has_length_1_in_one_group_and_groups_of_silos_add_up(by_label, layers, joint):
    summary = MeanEmbedding("any", Embedding(RandomFeatures(WIDTHS, 64), layers, joint), by_label)
    features, scores = normal(9, 6), normal(9, 3, seed=1)
    y = torch.tensor([0, 1, 1, NO_LABEL, 0, NO_LABEL, 1, NO_LABEL, 0])
    rows = rows_of(summary, out_of(features, y, scores=scores))
    lengths = rows.flatten(1).norm(dim=1)
    labelled = (y != NO_LABEL).double()
    np.testing.assert_allclose(lengths, labelled if by_label else torch.ones(9), rtol=1e-12)

    # Two silos of 4 and 5 rows, each with its own mean, weighted by rows as the server does.
    mean = (4 * rows[:4].mean(0) + 5 * rows[4:].mean(0)) / 9
    means, share = group_means(mean)
    phi = summary.embedding.of(out_of(features, y, scores=scores)).numpy()
    groups = [y == 0, y == 1, y == 2] if by_label else [y != NO_LABEL, y == NO_LABEL]
    for number, group in enumerate(groups):
        assert float(share[number]) == pytest.approx(float(group.double().mean()), abs=1e-9)
        wanted = phi[group].mean(0) if group.any() else np.zeros(phi.shape[1])
        np.testing.assert_allclose(means[number], wanted, atol=1e-9)


def test_a_joint_embedding_multiplies_the_kernels_of_its_layers():
    many = RandomFeatures((0.8,), 8_000)
    features, scores = normal(6, 4), normal(6, 3, seed=1)
    joint = Embedding(many, ("features", "scores"), True).of(
        out_of(features, torch.zeros(6).long(), scores=scores)
    )
    z, p = unit(features).numpy(), scores.softmax(1).numpy()
    np.testing.assert_allclose(joint @ joint.T, kernel(z, z, (0.8,)) * kernel(p, p, (0.8,)), atol=0.035)


def received(term, features, y, scores=None):
    (summary,) = term.summaries()
    return {summary.name: summary.rows(out_of(features, y, scores=scores)).mean(0)}


def unbiased_mmd(a, b, widths):
    """Gretton et al., 2012: without the products of a row of ``a`` with itself; ``b`` is a constant mean, so with all of its."""
    n, (z, r) = len(a), (unit(a).numpy(), unit(b).numpy())
    own = (kernel(z, z, widths).sum() - n) / (n * (n - 1))
    return own - 2 * kernel(z, r, widths).mean() + kernel(r, r, widths).mean()


@pytest.mark.parametrize("reference", ["other", "labelled"])
def test_the_loss_is_the_mmd_by_the_exact_kernel(reference):
    term = SiloMeanDiscrepancy(0.7, widths=WIDTHS, frequencies=8_000, reference=reference)
    labelled, unlabelled = normal(30, 5) + 2 * torch.eye(5)[0], normal(20, 5, seed=1) + 2 * torch.eye(5)[1]
    y = torch.cat([torch.zeros(30), torch.full((20,), NO_LABEL)]).long()
    summaries = received(term, torch.cat([labelled, unlabelled]), y)
    own, other = labelled[:8] + torch.eye(5)[2], unlabelled[:4] - torch.eye(5)[2]
    out = out_of(torch.cat([own, other]), torch.cat([y[:8], y[-4:]]), summaries=summaries)
    against = unlabelled if reference == "other" else labelled
    wanted = 8 / 12 * unbiased_mmd(own, against, WIDTHS) + 4 / 12 * unbiased_mmd(other, labelled, WIDTHS)
    assert term.loss(out).item() == pytest.approx(0.7 * wanted, abs=0.03)


def test_the_loss_by_label_compares_each_class_with_its_own():
    term = SiloMeanDiscrepancy(1.0, widths=WIDTHS, frequencies=8_000, by_label=True)
    features, y = normal(40, 5), torch.arange(40) % 2
    summaries = received(term, features, y)
    batch, labels = normal(10, 5, seed=3), torch.arange(10) % 2
    by_hand = sum(
        0.5 * unbiased_mmd(batch[labels == label], features[y == label], WIDTHS) for label in (0, 1)
    )
    assert term.loss(out_of(batch, labels, summaries=summaries)).item() == pytest.approx(by_hand, abs=0.03)
    # Certain predictions of rows without labels say the same as labels; the third class is nobody's.
    certain = 50 * torch.nn.functional.one_hot(labels, 3).double()
    out = out_of(batch, torch.full((10,), NO_LABEL), scores=certain, summaries=summaries)
    assert term.loss(out).item() == pytest.approx(by_hand, abs=0.03)


@pytest.mark.parametrize(
    "term", [SiloMeanDiscrepancy(), SiloMeanDiscrepancy(by_label=True), JointDiscrepancy()]
)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_without_a_reference_or_with_one_row_the_loss_is_0(term, rows):
    (summary,) = term.summaries()
    zeros = {summary.name: torch.zeros(summary.shape(6, 3))}
    y = torch.arange(5) % 2
    known = received(term, normal(5, 6), y, normal(5, 3))
    for summaries in [zeros] if rows == 5 else [zeros, known]:
        features = normal(rows, 6).requires_grad_()
        loss = term.loss(out_of(features, y[:rows], scores=normal(rows, 3), summaries=summaries))
        assert loss.item() == 0
        assert loss.requires_grad
        loss.backward()
        assert torch.equal(features.grad, torch.zeros_like(features))


def test_the_gradient_is_the_finite_difference():
    term = JointDiscrepancy(0.5, frequencies=32)
    y = torch.cat([torch.zeros(6), torch.full((6,), NO_LABEL)]).long()
    summaries = received(term, normal(12, 4), y, normal(12, 3, seed=4))
    scores, features = normal(12, 3, seed=2), normal(12, 4, seed=5).requires_grad_()
    term.loss(out_of(features, y, scores=scores, summaries=summaries)).backward()
    at = features.detach().clone()
    for row, column in [(0, 0), (3, 2), (8, 1), (11, 3)]:
        ends = []
        for step in (1e-5, -1e-5):
            moved = at.clone()
            moved[row, column] += step
            ends.append(term.loss(out_of(moved, y, scores=scores, summaries=summaries)).item())
        assert float(features.grad[row, column]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-7)


def test_steps_along_the_gradient_bring_a_shifted_silo_to_the_reference():
    """Features are moved themselves; no net helps or hinders."""
    term = SiloMeanDiscrepancy(frequencies=128)
    source = normal(60, 4)
    y = torch.full((60,), NO_LABEL)
    summaries = received(term, source, torch.zeros(60).long())
    moved = (
        source.flip(0) * torch.tensor([1.0, -0.5, 2.0, 1.0]) + torch.tensor([2.0, 0, 0, -1])
    ).requires_grad_()
    losses = []
    for _ in range(60):
        loss = term.loss(out_of(moved, y, summaries=summaries))
        (gradient,) = torch.autograd.grad(loss, moved)
        losses.append(loss.item())
        moved = (moved - 20 * gradient).detach().requires_grad_()
    assert losses[0] > 0.1
    assert losses[-1] < 0.1 * losses[0]


def test_a_term_brings_its_summary_and_a_method_without_it_is_refused():
    term = SiloMeanDiscrepancy()
    assert Method().plus(term).summaries == term.summaries()
    assert Method().plus(term).plus(replace(term, weight=2.0)).summaries == term.summaries()
    with pytest.raises(ValueError, match="embedding"):
        Method(objective=(term,))


def test_a_layer_that_the_model_does_not_have_is_named():
    terms = (SiloMeanDiscrepancy(layers=("features", "body.features.9")),)
    with pytest.raises(ConfigError, match=r"no layer 'body.features.9'"):
        Trainer(mlp(), Method().plus(*terms), FULL_BATCH)
