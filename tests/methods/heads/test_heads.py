"""Few-shot heads against numpy and scikit-learn, and what the support chooses."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import NearestCentroid
from sklearn.semi_supervised import LabelSpreading

from fedtl._util.randomness import numpy_generator
from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.choose import HEADS, best_head, fold_of, held_out_accuracy
from fedtl.methods.heads.closed_form import ridge
from fedtl.methods.heads.linear import EPOCHS, FeatureSite, linear
from fedtl.methods.heads.matching import SHARPNESS, matching
from fedtl.methods.heads.propagation import SPREADS, graph, propagation, spreading
from fedtl.methods.heads.prototype import prototype
from fedtl.methods.heads.relation import Relation, relation_module
from fedtl.methods.heads.scaled import scaled
from fedtl.methods.ridge import STRENGTHS

WIDTH, DIMS = 3, 5


def task(shots, seed=0, queries=40, spread=1.0, far=2.0):
    """A support of so many rows a class, and queries with their classes: normal clusters whose features differ in scale."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(WIDTH, DIMS)) * far
    y = np.concatenate([np.tile(np.arange(WIDTH), shots), rng.integers(0, WIDTH, queries)])
    x = centres[y] + rng.normal(size=(len(y), DIMS)) * spread * np.linspace(0.3, 2, DIMS)
    x, y, count = torch.tensor(x, dtype=torch.float32), torch.tensor(y), shots * WIDTH
    return LabelledFeatures(x[:count], y[:count]), x[count:], y[count:]


def prototypes_of(support):
    x, y = support.features.double().numpy(), support.y.numpy()
    return np.stack([x[y == c].mean(0) for c in range(WIDTH)])


def test_a_prototype_head_answers_as_scikit_learns_nearest_centroid():
    support, queries, _ = task(4)
    scores = prototype(support, WIDTH, queries)
    expected = -cdist(queries.double().numpy(), prototypes_of(support), "sqeuclidean")
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-4)
    model = NearestCentroid().fit(support.features.numpy(), support.y.numpy())
    assert scores.argmax(1).tolist() == model.predict(queries.numpy()).tolist()


@pytest.mark.parametrize("shots", [1, 4])
def test_matching_is_attention_over_the_support(shots):
    support, queries, _ = task(shots)
    cosines = 1 - cdist(queries.double().numpy(), support.features.double().numpy(), "cosine")
    own = 1 - cdist(support.features.double().numpy(), support.features.double().numpy(), "cosine")
    members, y = np.eye(WIDTH)[support.y.numpy()], support.y.numpy()

    def loss(sharpness):
        attention = sharpness * own
        np.fill_diagonal(attention, -np.inf)
        return -np.log((softmax(attention, axis=1) @ members)[np.arange(len(y)), y].clip(1e-12)).mean()

    best = min(SHARPNESS, key=loss) if shots > 1 else 1.0
    expected = np.log(softmax(best * cosines, axis=1) @ members)
    np.testing.assert_allclose(matching(support, WIDTH, queries).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_scaled_head_minimises_the_loss_of_rows_that_are_left_out_one_by_one():
    support, queries, _ = task(3, spread=3.0)
    x, y, means = support.features.double().numpy(), support.y.numpy(), prototypes_of(support)
    variance = ((x - means[y]) ** 2).sum(0) / (len(x) - WIDTH)
    variance = variance + 0.1 * variance.mean()
    aim = np.eye(WIDTH)[y] * (1 - 1 / (len(y) + 1)) + 1 / (len(y) + 1) / WIDTH  # label smoothing
    best = np.inf
    for power in (0, 0.5, 1):
        distances = np.empty((len(x), WIDTH))
        for out in range(len(x)):
            kept = np.arange(len(x)) != out
            without = np.stack([x[kept & (y == c)].mean(0) for c in range(WIDTH)])
            distances[out] = ((x[out] - without) ** 2 * variance**-power).sum(1)

        def logs(scale, distances=distances):
            return log_softmax(-scale * distances, axis=1)

        scale = np.exp(minimize_scalar(lambda one: -(aim * logs(np.exp(one))).mean(), bounds=(-12, 5)).x)
        if (loss := -logs(scale)[np.arange(len(y)), y].mean()) < best:
            weighted = (queries.double().numpy()[:, None] - means) ** 2 * variance**-power
            best, expected = loss, -scale * weighted.sum(2)
    np.testing.assert_allclose(scaled(support, WIDTH, queries).numpy(), expected, rtol=1e-2)


def test_a_scaled_head_of_one_shot_is_the_nearest_prototype():
    support, queries, _ = task(1)
    assert torch.equal(scaled(support, WIDTH, queries), prototype(support, WIDTH, queries))


@pytest.mark.parametrize("alpha", SPREADS)
def test_propagation_spreads_as_scikit_learns_label_spreading(alpha):
    support, queries, _ = task(3)
    rows = torch.cat([support.features, queries]).double()
    affinity = graph(rows)
    found = spreading(affinity, alpha, len(support)) @ torch.eye(WIDTH).double()[support.y]
    model = LabelSpreading(kernel=lambda a, b: affinity.numpy(), alpha=alpha, max_iter=20_000, tol=1e-13)
    labels = np.concatenate([support.y.numpy(), np.full(len(queries), -1)])
    model.fit(rows.numpy(), labels)
    found = (found / found.sum(1, keepdim=True)).numpy()
    np.testing.assert_allclose(found, model.label_distributions_, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_propagation_chooses_the_spread_by_rows_whose_label_is_taken_away(seed):
    support, queries, _ = task(4, seed, spread=2.5)
    affinity = graph(torch.cat([support.features, queries]).double()).numpy()
    labels = np.concatenate([np.eye(WIDTH)[support.y.numpy()], np.zeros((len(queries), WIDTH))])
    root, count, best = affinity.sum(1) ** -0.5, len(support), np.inf

    def balanced(result):
        shares = result / result.sum(0)
        return np.log(shares / shares.sum(1, keepdims=True))

    for alpha in SPREADS:
        kernel = (1 - alpha) * np.linalg.inv(np.eye(len(labels)) - alpha * np.outer(root, root) * affinity)
        result = kernel @ labels
        without = result.copy()
        for row in range(count):
            others = labels.copy()
            others[row] = 0
            without[row] = kernel[row] @ others
        losses = -balanced(without)[np.arange(count), support.y.numpy()]
        if losses.mean() < best:
            best, expected = losses.mean(), balanced(result)[count:]
    np.testing.assert_allclose(propagation(support, WIDTH, queries).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_propagation_uses_the_shape_of_the_queries():
    """Two long parallel chains with a label at one end each: a nearest prototype cannot follow them."""
    along = torch.linspace(0, 30, 120)
    chains = torch.cat(
        [torch.stack([along, torch.zeros(120)], 1), torch.stack([along, torch.ones(120) * 6], 1)]
    )
    ends = LabelledFeatures(torch.tensor([[0.0, 0.0], [30.0, 6.0]]), torch.tensor([0, 1]))
    y = torch.arange(240) // 120
    right = float((propagation(ends, 2, chains).argmax(1) == y).float().mean())
    assert right > 0.95 > 0.7 > float((prototype(ends, 2, chains).argmax(1) == y).float().mean())


def test_many_queries_are_answered_in_parts():
    support, queries, y = task(3, queries=300, spread=0.5)
    scores = propagation(support, WIDTH, queries)
    assert torch.equal(scores[:256], propagation(support, WIDTH, queries[:256]))
    assert scores.shape == (300, WIDTH)
    assert float((scores[256:].argmax(1) == y[256:]).float().mean()) > 0.9


def test_the_ridge_penalty_is_that_with_the_least_error_on_rows_that_are_left_out():
    support, queries, _ = task(5, spread=2.0)
    x, aim = support.features.double().numpy(), np.eye(WIDTH)[support.y.numpy()]
    unit = x.var(0).mean()

    def fitted(strength, kept):
        # lambda is relative to a mean over all rows, so a model without one row keeps the sum's penalty
        return SklearnRidge(alpha=strength * unit * len(x)).fit(x[kept], aim[kept])

    def press(strength):
        rows = range(len(x))
        kept = [np.arange(len(x)) != out for out in rows]
        return sum(((aim[i] - fitted(strength, kept[i]).predict(x[i : i + 1])) ** 2).sum() for i in rows)

    model = fitted(min(STRENGTHS, key=press), slice(None))
    scores = ridge(support, WIDTH, queries).double().numpy()
    ratio = scores / model.predict(queries.double().numpy())
    assert ratio.mean() > 0
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)  # one scale makes logits of them


def test_a_linear_head_takes_the_steps_of_torchs_sgd():
    support, _, _ = task(15)
    site, rate = FeatureSite(support), 0.3
    start = {"head.weight": torch.ones(WIDTH, DIMS) / 7, "head.bias": torch.zeros(WIDTH)}
    done = site.train(start, None, rate, 4)
    weight, bias = (tensor.clone().requires_grad_() for tensor in start.values())
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for batch in np.array_split(numpy_generator("linear head", 4).permutation(45), 2):
        scores = support.features[batch] @ weight.T + bias
        loss = torch.nn.functional.cross_entropy(scores, support.y[batch])
        for at, (one, gradient) in enumerate(
            zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True)
        ):
            momentum[at] = 0.9 * momentum[at] + gradient
            one.data -= rate * momentum[at]
    assert torch.allclose(done["head.weight"], weight, atol=1e-6)
    assert torch.allclose(done["head.bias"], bias, atol=1e-6)
    assert start["head.weight"].eq(1 / 7).all()
    assert EPOCHS == 50


def test_a_relation_head_scores_each_pair_by_its_network():
    support, queries, _ = task(2)
    module = relation_module(DIMS)
    scores = Relation(module)(support, WIDTH, queries)
    means = prototypes_of(support)
    pair = torch.tensor(np.concatenate([means[1], queries[7].numpy()]), dtype=torch.float32)
    assert torch.allclose(scores[7, 1], module(pair)[0], atol=1e-5)
    assert not scores.requires_grad


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shots", [1, 2, 6])
def test_every_head_learns_separate_classes_and_changes_nothing(name, shots):
    support, queries, y = task(shots, spread=0.3, far=5.0)
    before = (support.features.clone(), support.y.clone(), queries.clone())
    scores = HEADS[name](support, WIDTH, queries)
    assert scores.shape == (len(queries), WIDTH)
    assert torch.isfinite(scores).all()
    assert float((scores.argmax(1) == y).float().mean()) > 0.95
    for one, other in zip(before, (support.features, support.y, queries), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(scores, HEADS[name](support, WIDTH, queries))


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_sound_with_one_class_one_row_and_equal_rows(name):
    one = LabelledFeatures(torch.ones(1, DIMS), torch.zeros(1, dtype=torch.int64))
    assert HEADS[name](one, 1, torch.zeros(2, DIMS)).argmax(1).tolist() == [0, 0]
    equal = LabelledFeatures(torch.zeros(6, DIMS), torch.tensor([0, 0, 0, 1, 1, 2]))
    assert torch.isfinite(HEADS[name](equal, WIDTH, torch.zeros(3, DIMS))).all()
    uneven = LabelledFeatures(task(3)[0].features[:7], torch.tensor([0, 0, 0, 0, 1, 1, 2]))
    assert torch.isfinite(HEADS[name](uneven, WIDTH, torch.randn(3, DIMS))).all()


@pytest.mark.parametrize("name", HEADS)
def test_the_number_of_a_class_does_not_matter(name):
    support, queries, _ = task(5)
    other = torch.tensor([2, 0, 1])
    moved = HEADS[name](LabelledFeatures(support.features, other[support.y]), WIDTH, queries)
    assert torch.allclose(moved[:, other], HEADS[name](support, WIDTH, queries), rtol=1e-2, atol=1e-3)


# What the support chooses


def test_folds_leave_a_row_of_each_class_and_never_take_the_only_one():
    y = torch.tensor([0, 1, 0, 2, 0, 1, 0, 0, 0, 0])
    fold = fold_of(y, WIDTH)
    assert fold[3] == -1
    for number in range(5):
        assert set(y[fold != number].tolist()) == {0, 1, 2}
    assert sorted(fold[y == 0].tolist()) == [0, 0, 1, 1, 2, 3, 4]
    assert sorted(fold[y == 1].tolist()) == [0, 1]


def test_the_held_out_accuracy_is_that_of_leaving_out_by_hand():
    support, _, _ = task(3, spread=2.5)
    right = 0
    for out in range(3):  # the rows of a class follow each other at a distance of WIDTH
        rows = torch.arange(out * WIDTH, (out + 1) * WIDTH)
        kept = torch.tensor([i for i in range(3 * WIDTH) if i not in rows])
        model = NearestCentroid().fit(support.features[kept].numpy(), support.y[kept].numpy())
        right += int((model.predict(support.features[rows].numpy()) == support.y[rows].numpy()).sum())
    assert held_out_accuracy(prototype, support, WIDTH) == right / 9


def test_a_head_never_sees_the_rows_that_judge_it():
    def cheat(support, width, queries):
        same = (queries[:, None] == support.features[None]).all(2)
        return torch.stack([same[:, support.y == c].any(1) for c in range(width)], 1).float()

    support, _, _ = task(6)
    assert held_out_accuracy(cheat, support, WIDTH) == pytest.approx(1 / WIDTH)  # always the first class


def test_without_a_second_row_or_a_second_class_nothing_is_chosen():
    assert held_out_accuracy(linear, task(1)[0], WIDTH) is None
    one = LabelledFeatures(torch.randn(4, DIMS), torch.zeros(4, dtype=torch.int64))
    assert held_out_accuracy(prototype, one, 1) is None


def test_of_equally_good_heads_the_simplest_is_chosen():
    assert best_head({"prototype": 0.8, "ridge": 0.9, "linear": 0.9}) == "ridge"
