"""The losses between silos against numpy, scipy's linear programs, finite differences and their laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import nn

from fedtl._util.labels import NO_LABEL
from fedtl.errors import ConfigError
from fedtl.methods.base import Method
from fedtl.methods.dann import DomainAdversarial
from fedtl.methods.group_means import group_means
from fedtl.methods.jdot import JointTransport, sinkhorn
from fedtl.methods.losses import Batch, Computed, Forward, Pass, PerBatch, PerExample, mean_loss
from fedtl.methods.mean_embedding import Embedding
from fedtl.methods.near_target import NearTarget
from fedtl.methods.random_features import RandomFeatures, unit
from fedtl.methods.registry import BETWEEN_SILOS, METHODS, TERMS
from fedtl.methods.ridge_sums import Projection
from fedtl.methods.silo_coral import ProjectedMoments, SiloCoral
from fedtl.methods.silo_dann import ConditionalAdversarial, SiloAdversarial
from fedtl.methods.soft_labels import SoftLabels
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.methods.test_adaptation import finite_differences
from tests.methods.test_embeddings import kernel, normal
from tests.training.silos import data_of, mlp, silo_at, task_for

CLASSES = 3


def out_of(features, y, scores=None, summaries=None, aux=None, progress=0.5):
    n = len(y)
    scores = normal(n, CLASSES, seed=8) if scores is None else scores
    batch = Batch(torch.zeros(n, 1), y, (y == NO_LABEL).double())
    return Forward(batch, Computed(Pass(features, scores), aux or {}), progress, summaries or {})


def received(term, out):
    """What the silos' rows together make of the term's summaries."""
    return {summary.name: summary.rows(out).mean(0) for summary in term.summaries()}


def labels(labelled, unlabelled):
    return torch.cat([torch.arange(labelled) % CLASSES, torch.full((unlabelled,), NO_LABEL)])


# Moments, and CORAL


def test_moments_that_cross_are_those_of_numpy():
    summary = ProjectedMoments("any", Projection(4, seed=1))
    features, y = normal(25, 9) * 3 + 1, labels(15, 10)
    rows = summary.rows(out_of(features, y))
    assert rows.shape[1:] == summary.shape(9, CLASSES) == (2, 15 + 1)
    np.testing.assert_allclose(rows.flatten(1).norm(dim=1), 1, rtol=1e-9)
    means, share = group_means(rows.mean(0))
    np.testing.assert_allclose(share, [0.6, 0.4])
    u = summary.projected(out_of(features, y)).numpy()
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1)
    for number, part in enumerate((u[:15], u[15:])):
        wanted = np.cov(part, rowvar=False, bias=True)
        np.testing.assert_allclose(summary.covariance(means[number]), wanted, atol=1e-12)


def test_coral_between_silos():
    term, far = SiloCoral(0.7, dims=4), normal(40, 9, seed=1)
    summaries = received(term, out_of(far * torch.linspace(0.2, 3, 9), labels(24, 16)))
    means, _ = group_means(summaries["moments"])
    references = [term.moments.covariance(mean).numpy() for mean in means]
    at, y = normal(8, 9, seed=2).numpy(), labels(5, 3)

    def by_hand(x):
        u = term.moments.projected(out_of(torch.from_numpy(x), y)).numpy()
        parts = ((u[:5], references[1]), (u[5:], references[0]))
        return 0.7 * sum(((np.cov(own, rowvar=False) - other) ** 2).sum() / 4 for own, other in parts)

    features = torch.from_numpy(at).requires_grad_()
    loss = term.loss(out_of(features, y, summaries=summaries))
    np.testing.assert_allclose(loss.item(), by_hand(at), rtol=1e-9)
    loss.backward()
    np.testing.assert_allclose(features.grad, finite_differences(by_hand, at), atol=1e-7)


# The discriminator


def discriminator(term, width):
    torch.manual_seed(0)
    return nn.ModuleDict(term.modules(width, (width,))).double()


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("pace", [1.0, 0.1])
def test_pace_scales_the_discriminators_gradient_and_not_the_reversed_one(condition, pace):
    term = SiloAdversarial(0.6, condition, pace)
    aux, y, at = discriminator(term, 5), labels(0, 6), normal(6, 5)
    lam = 2 / (1 + np.exp(-5)) - 1

    def plain(x):
        """The discriminator's loss without reversal: at progress 0 only its own weights see a gradient."""
        with torch.no_grad():
            return DomainAdversarial.losses(term, out_of(torch.as_tensor(x), y, aux=aux)).mean().item()

    features = at.clone().requires_grad_()
    out = out_of(features, y, aux=aux)
    assert term.counts(out).all()  # also where all rows are of one domain
    mean_loss(term, out).backward()
    slopes = finite_differences(plain, at.numpy())
    assert np.abs(slopes).max() > 1e-3
    np.testing.assert_allclose(features.grad, -0.6 * lam * slopes, atol=1e-8)
    bias = aux["domain"][-1].bias
    guess = DomainAdversarial.losses(term, out_of(at, y, aux=aux))
    (wanted,) = torch.autograd.grad(guess.mean(), bias)
    np.testing.assert_allclose(bias.grad, pace * wanted, rtol=1e-9)


def test_a_conditioned_discriminator_sees_products_of_features_and_predictions():
    """The inner product of what it sees is on average that of features times that of predictions."""
    seen = []
    aux = {"domain": lambda x: seen.append(x) or x[:, :1]}
    features, scores = F.normalize(normal(40, 6), dim=1), normal(40, CLASSES, seed=1)
    ConditionalAdversarial().losses(out_of(features, labels(40, 0), scores, aux=aux))
    p = scores.softmax(1)
    wanted = ((features @ features.T) * (p @ p.T)).flatten()
    found = (seen[0] @ seen[0].T).flatten()
    assert np.corrcoef(wanted, found)[0, 1] > 0.95
    assert float((found / wanted)[:: 40 + 1].mean()) == pytest.approx(1, abs=0.1)  # squared lengths


# Optimal transport


@pytest.mark.parametrize("rows", [1, 6])
def test_sinkhorn_has_the_marginals_and_almost_the_cost_of_the_linear_program(rows):
    cost, columns = normal(rows, 4).abs(), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    plan = sinkhorn(cost, columns, 0.01, 2000)
    np.testing.assert_allclose(plan.sum(1), 1 / rows, rtol=1e-9)
    np.testing.assert_allclose(plan.sum(0), columns, atol=1e-6)
    sums = [np.kron(np.eye(rows), np.ones(4)), np.kron(np.ones(rows), np.eye(4))]
    exact = linprog(
        cost.numpy().flatten(), A_eq=np.vstack(sums), b_eq=np.concatenate([np.full(rows, 1 / rows), columns])
    )
    # Any plan's entropy is between 0 and log(4 rows), so the penalty costs at most this much.
    assert exact.fun - 1e-6 <= float((plan * cost).sum()) <= exact.fun + 0.01 * np.log(4 * rows) + 1e-6


@pytest.mark.slow
def test_sinkhorn_is_that_of_pot():
    ot = pytest.importorskip("ot")
    cost, columns = normal(6, 4).abs(), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    wanted = ot.sinkhorn(
        np.full(6, 1 / 6), columns.numpy(), cost.numpy(), 0.1, numItermax=5000, stopThr=1e-13
    )
    np.testing.assert_allclose(sinkhorn(cost, columns, 0.1, 2000), wanted, rtol=1e-6, atol=1e-9)


def test_jdot_is_the_cost_of_the_linear_program_on_prototypes_and_predictions():
    term = JointTransport(0.5, labels=0.3, entropy=1e-3, iterations=3000)
    features, y = normal(20, 6), labels(20, 0).clamp_max(1)  # the third class is nobody's
    summaries = received(term, out_of(features, y))
    far, scores = normal(5, 6, seed=1), normal(5, CLASSES, seed=2)
    batch = torch.cat([far, features[:2]])
    out = out_of(batch, labels(0, 5), scores, summaries)
    out = out_of(batch, torch.cat([labels(0, 5), y[:2]]), torch.cat([scores, scores[:2]]), summaries)

    z, mine = unit(features).numpy(), unit(far).numpy()
    prototypes = [z[y == label].mean(0) for label in (0, 1)]
    log_p = scores.log_softmax(1).numpy()
    cost = np.array(
        [
            [((row - m) ** 2).sum() - 0.3 * log_p[i, c] for c, m in enumerate(prototypes)]
            for i, row in enumerate(mine)
        ]
    )
    sums = np.vstack([np.kron(np.eye(5), np.ones(2)), np.kron(np.ones(5), np.eye(2))])
    shares = [float((y == label).double().mean()) for label in (0, 1)]
    exact = linprog(cost.flatten(), A_eq=sums, b_eq=[*np.full(5, 0.2), *shares])
    assert term.loss(out).item() == pytest.approx(0.5 * exact.fun, abs=0.5e-3 * np.log(10) + 1e-5)


def test_steps_of_jdot_bring_each_row_to_a_class():
    term = JointTransport(1.0, labels=0.0)
    summaries = received(
        term, out_of(torch.eye(6, dtype=torch.float64).repeat(3, 1)[:9] * 5, torch.arange(9) // 3)
    )
    features = normal(9, 6, seed=3)
    losses = []
    for _ in range(30):
        features.requires_grad_()
        loss = term.loss(out_of(features, labels(0, 9), summaries=summaries))
        (gradient,) = torch.autograd.grad(loss, features)
        losses.append(loss.item())
        features = (features - 5 * gradient).detach()
    assert losses[-1] < 0.7 * losses[0]


# Soft labels


def test_soft_labels_are_the_mean_predictions_of_all_silos_for_the_class():
    term = SoftLabels(0.7, temperature=2.0)
    features, y, scores = normal(12, 4), labels(9, 3).clamp_max(1), normal(12, CLASSES, seed=1) * 3
    summaries = received(term, out_of(features, y, scores))
    p = np.exp(scores.numpy() / 2)
    p /= p.sum(1, keepdims=True)
    known = y.numpy()
    soft = {label: p[known == label].mean(0) for label in (0, 1)}
    out = out_of(features, torch.tensor([0, 1, 2, NO_LABEL, *[0] * 8]), scores, summaries)
    assert term.counts(out).tolist() == [True, True, False, False, *[True] * 8]
    losses = term.losses(out).numpy()
    np.testing.assert_allclose(losses[0], -0.7 * soft[0] @ np.log(p[0]), rtol=1e-9)
    np.testing.assert_allclose(losses[1], -0.7 * soft[1] @ np.log(p[1]), rtol=1e-9)


# Rows like those without labels


def test_rows_count_by_the_kernel_to_rows_without_labels_and_on_average_1():
    term = NearTarget(widths=(0.6,), frequencies=8_000)
    near, far = normal(15, 5) + torch.eye(5)[0] * 3, normal(25, 5) - torch.eye(5)[0] * 3
    target = normal(20, 5, seed=1) + torch.eye(5)[0] * 3
    y, features = labels(40, 20), torch.cat([near, far, target])
    out = out_of(features, y, summaries=received(term, out_of(features, y)))
    task = F.cross_entropy(out.scores[:40], y[:40], reduction="none")
    weights = (term.losses(out)[:40] / task).numpy()
    z = unit(features).numpy()
    likeness = kernel(z[:40], z[40:], (0.6,)).mean(1)
    np.testing.assert_allclose(weights, likeness / likeness.mean(), atol=0.1)
    assert weights.mean() == pytest.approx(
        1, abs=0.02
    )  # negative ones, which random features give, count as 0
    # A silo's share follows from its discrepancy: the near one's rows count more.
    assert weights[:15].mean() > 2 * weights[15:].mean()
    assert term.counts(out).tolist() == [True] * 40 + [False] * 20


# What holds for each


@pytest.mark.parametrize("name", [*BETWEEN_SILOS, "soft_labels"])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_the_first_round_and_batches_of_few_rows_give_a_finite_loss(name, rows):
    term = TERMS[name]()
    aux = discriminator(term, 6) if term.modules(6, (6,)) else {}
    zeros = {one.name: torch.zeros(one.shape(6, CLASSES), dtype=torch.float64) for one in term.summaries()}
    known = received(term, out_of(normal(9, 6), labels(6, 3)))
    for summaries, y in [(zeros, labels(rows, 0)), (known, labels(rows, 0)), (known, labels(0, rows))]:
        features = normal(rows, 6).requires_grad_()
        out = out_of(features, y, normal(rows, CLASSES), summaries, aux)
        loss = mean_loss(term, out) if isinstance(term, PerExample) else term.loss(out)
        assert not zeros or summaries is known or loss.item() == 0
        if loss.requires_grad:
            loss.backward()
            assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("name", BETWEEN_SILOS)
def test_no_vector_that_crosses_is_longer_than_its_bound(name):
    """Features and scores of any size; each row's vector is 1 long or, without the label that it needs, 0."""
    for summary in METHODS[name]().summaries:
        for size in (1e-9, 1.0, 1e9):
            out = out_of(normal(30, 6) * size, labels(20, 10), normal(30, CLASSES, seed=2) * size)
            lengths = summary.rows(out).flatten(1).norm(dim=1)
            assert float(lengths.max()) <= summary.bound * (1 + 1e-6) == 1 + 1e-6
            assert float(lengths[:20].min()) > 0.5
            assert summary.rows(out).shape[1:] == summary.shape(6, CLASSES)


def test_simultaneous_transfer_has_both_terms_and_one_summary():
    method = METHODS["simultaneous"](weight=0.5, labels=0.25)
    assert method.objective[1:] == (SiloAdversarial(0.5), SoftLabels(0.25))
    assert [summary.name for summary in method.summaries] == ["soft_labels"]


@pytest.mark.parametrize("name", BETWEEN_SILOS)
def test_a_silo_without_labels_can_train_with_each(name):
    term = TERMS[name]()
    assert term.source_free
    assert term.needs_target
    assert isinstance(term, PerBatch | PerExample)
    assert Method().plus(term).summaries == term.summaries()


def test_embeddings_of_other_seeds_are_other_summaries():
    one, other = (Embedding(RandomFeatures((1.0,), 8, seed)) for seed in (0, 1))
    assert one != other


def test_a_summary_of_too_many_numbers_is_refused():
    (embedding,) = TERMS["silo_mmd"](frequencies=65536, by_label=True).summaries()
    assert embedding.shape(8, 2)[0] == 2
    with pytest.raises(ConfigError, match="frequencies"):
        embedding.shape(8, 1000)


def test_a_summary_times_the_weight_of_its_update_counts_every_row_also_where_few_have_a_label():
    """So the weighted mean over silos is the mean over all rows of a group, whichever silos hold them."""
    trainer = Trainer(mlp(), METHODS["silo_mmd"](), TrainingConfig(batch_size=8))
    data = replace(data_of(1, 10), target=data_of(2, 40).train.x, one_domain=True)
    silo = silo_at(trainer, "here", data)
    task = task_for(trainer, silo)
    update = trainer.fit(silo, task)
    name = "summary/embedding"
    counts = (task.shared[name] + update.delta[name])[:, -1] * 2**0.5 * update.weight
    torch.testing.assert_close(counts, torch.tensor([10.0, 40.0]))
