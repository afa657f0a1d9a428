"""Heads in closed form: against scikit-learn, against the pooled rows, and as a step after training."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeClassifier
from torch import nn

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import ConfigError
from fedtl.methods.base import LabelledFeatures, Method, own_labels
from fedtl.methods.losses import Batch, Computed, Forward, Pass
from fedtl.methods.registry import METHODS
from fedtl.methods.ridge import STRENGTHS, RidgeHead, best_scale
from fedtl.methods.ridge_sums import MAX_NUMBERS, Projection, Ridge, RidgeSums, Rows, targets
from fedtl.models.split import split_at_classifier
from fedtl.training.at_home import features_by, finish
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import (
    CLASSES,
    COLUMNS,
    FULL_BATCH,
    InProcess,
    data_of,
    federate,
    mlp,
    rows_of,
    same,
    silo_at,
    smooth,
    task_for,
)

WIDTH = len(CLASSES)


def test_a_probe_in_closed_form_is_the_ridge_head_of_the_silo_alone():
    assert METHODS["probe"](head="ridge") == METHODS["ridge"](sums="own")


def labelled(seed=0, count=60, classes=True):
    """Features far from the origin and of unequal scales; classes that depend on them, or values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 7)) * np.linspace(0.3, 3, 7) + 2
    noisy = x[:, :2].sum(1) + rng.normal(size=count)
    y = np.digitize(noisy, np.quantile(noisy, [1 / 3, 2 / 3])) if classes else noisy.astype(np.float32)
    return LabelledFeatures(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


def numpy_targets(y):
    return np.eye(WIDTH)[y.numpy()] if not y.is_floating_point() else y.double().numpy()[:, None]


def sklearn_head(x, y, penalty, weights=None):
    """Weights [D, C] and bias [C]; lambda is scikit-learn's alpha over the number of rows."""
    model = SklearnRidge(alpha=penalty * len(x)).fit(x.double().numpy(), numpy_targets(y), weights)
    return np.reshape(model.coef_, (-1, x.shape[1])).T, np.atleast_1d(model.intercept_)


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_the_head_is_that_of_scikit_learns_ridge(classes, penalty):
    rows = labelled(classes=classes)
    weight, bias = Ridge.of(Rows().moments(rows, WIDTH if classes else 1)).head(penalty)
    expected = sklearn_head(rows.features, rows.y, penalty)
    np.testing.assert_allclose(weight.numpy(), expected[0], atol=1e-7)
    np.testing.assert_allclose(bias.numpy(), expected[1], atol=1e-7)


def test_it_predicts_the_classes_of_scikit_learns_ridge_classifier():
    rows, others = labelled(), labelled(1)
    weight, bias = Ridge.of(Rows().moments(rows, WIDTH)).head(0.1)
    found = (others.features.double() @ weight + bias).argmax(1)
    model = RidgeClassifier(alpha=0.1 * len(rows)).fit(rows.features.double().numpy(), rows.y.numpy())
    assert found.tolist() == model.predict(others.features.double().numpy()).tolist()


def test_values_of_clipped_rows_are_fitted_as_by_weighted_least_squares():
    rows = labelled(classes=False)
    phi = np.concatenate([rows.features.double().numpy(), np.ones((len(rows), 1))], 1)
    scale = 1 / np.maximum(np.linalg.norm(phi, axis=1), 4.0)
    y = rows.y.clamp(-3, 3)
    weight, bias = Ridge.of(Rows(clip=4.0).moments(rows, 1)).head(0.05)
    # scikit-learn's penalty is relative to the sum of the rows, whatever their weights are
    expected = sklearn_head(rows.features, y, 0.05, scale**2)
    np.testing.assert_allclose(weight.numpy(), expected[0], atol=1e-7)
    np.testing.assert_allclose(bias.numpy(), expected[1], atol=1e-7)


@pytest.mark.parametrize(
    "projection", [Projection(3, seed=5), Projection(3, 5, True), Projection(0, 5, True)]
)
def test_a_projection_is_undone_in_the_head(projection):
    rows = labelled()
    weight, bias = Ridge.of(Rows(projection).moments(rows, WIDTH)).head(0.1)
    assert weight.shape == (projection.dims or 7, WIDTH)
    on_features = rows.features.double() @ projection.undo(weight, 7) + bias
    assert torch.allclose(on_features, projection.of(rows.features.double()) @ weight + bias)
    other = replace(projection, seed=6).undo(weight, 7)
    assert torch.allclose(projection.undo(weight, 7), other) == (not projection.dims)  # the seed decides
    if projection.centre:  # what all features of a row have in common has no effect
        moved = (rows.features.double() + 5) @ projection.undo(weight, 7) + bias
        assert torch.allclose(moved, on_features)
    assert torch.equal(Projection(7).of(rows.features), rows.features)


# The sums that cross


def pass_of(rows):
    width = 1 if rows.y.is_floating_point() else WIDTH
    return Forward(
        Batch(rows.features, rows.y, torch.zeros(len(rows.y))),
        Computed(Pass(rows.features, torch.zeros(len(rows.y), width))),
    )


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("form", [Rows(), Rows(clip=3.0), Rows(Projection(4))])
def test_a_mean_of_vectors_is_unpacked_to_the_moments(classes, form):
    rows, sums = labelled(classes=classes), RidgeSums(form)
    width = WIDTH if classes else 1
    vectors = sums.rows(pass_of(rows))
    assert vectors.shape[1:] == sums.shape(7, width)
    found, expected = sums.moments(vectors.mean(0), rows.y, width), form.moments(rows, width)
    assert torch.allclose(found.second, expected.second)
    assert torch.allclose(found.cross, expected.cross)


def test_a_row_without_a_label_counts_as_zeros():
    rows = labelled()
    partly = replace(rows, y=rows.y.where(torch.arange(len(rows)) % 2 == 0, -1))
    vectors = RidgeSums().rows(pass_of(partly))
    assert not vectors[1::2].any()
    assert torch.equal(vectors[::2], RidgeSums().rows(pass_of(rows))[::2])


def test_sums_of_too_many_numbers_are_refused():
    assert RidgeSums().shape(2000, 10)[0] <= MAX_NUMBERS
    with pytest.raises(ConfigError, match=r"method\.dims"):
        RidgeSums().shape(4000, 10)
    RidgeSums(Rows(Projection(256))).shape(4000, 10)


def silos_of(trainer, order="abc"):
    data = {name: data_of(seed, 12 + 9 * seed) for seed, name in enumerate("abc")}
    return [silo_at(trainer, name, data[name]) for name in order]


def test_one_round_gives_the_head_of_the_pooled_rows():
    trainer = Trainer(smooth(), METHODS["ridge"]("shared"), FULL_BATCH)
    silos = silos_of(trainer)
    (one,) = federate(trainer, silos)
    assert one.after.shared.keys() == {"summary/ridge"}
    net = smooth().net(WIDTH).eval()
    with torch.no_grad():
        features = torch.cat([net.body(silo.data.train.x) for silo in silos])
    y = torch.cat([silo.data.train.y for silo in silos])
    ridge = Ridge.of(RidgeSums().moments(one.after.shared["summary/ridge"], y, WIDTH))
    for penalty in (1e-3, 0.1):
        weight, bias = ridge.head(penalty)
        expected = sklearn_head(features, y, penalty)
        np.testing.assert_allclose(weight.numpy(), expected[0], atol=1e-5)
        np.testing.assert_allclose(bias.numpy(), expected[1], atol=1e-5)


def test_order_changes_no_bit_and_a_silo_that_does_not_answer_changes_no_others_sums():
    trainer = Trainer(mlp(), METHODS["ridge"](), TrainingConfig())
    (one,), (other,) = (federate(trainer, silos_of(trainer, order)) for order in ("abc", "cab"))
    assert same(one.after.shared, other.after.shared)
    two, all_three = silos_of(trainer, "ab"), silos_of(trainer)
    updates = [trainer.fit(silo, task_for(trainer, silo)) for silo in two]
    again = [trainer.fit(silo, task_for(trainer, silo)) for silo in all_three]
    assert all(same(a.delta, b.delta) for a, b in zip(updates, again, strict=False))


def test_sums_are_of_the_model_with_the_silos_own_statistics():
    trainer = Trainer(mlp(), METHODS["ridge"](), TrainingConfig())
    (silo,) = silos_of(trainer, "b")
    task, train = task_for(trainer, silo), silo.data.train
    delta = trainer.fit(silo, task).delta["summary/ridge"]
    finished = trainer.adapt(trainer.partition.join(task.shared, silo.local), train.x, WIDTH)
    rows = features_by(trainer, finished, train, silo.data)
    found = RidgeSums().moments(delta, train.y, WIDTH)
    assert torch.allclose(found.second, Rows().moments(rows, WIDTH).second, atol=1e-5)
    as_received = features_by(trainer, trainer.initial(WIDTH), train, silo.data)
    assert not torch.allclose(found.second, Rows().moments(as_received, WIDTH).second, atol=0.1)


@pytest.mark.parametrize(("sums", "own"), [("own", True), ("shared", False), ("mix", False)])
def test_silos_number_their_labels_alike_where_sums_cross(sums, own):
    method = METHODS["ridge"](sums)
    assert own_labels(method) is own
    assert method.head_is_local


# The head at the silo


def finished(trainer, silo, shared=None):
    task = task_for(trainer, silo)
    if shared is None:
        shared = trainer.fit(silo, task).delta
    return finish(trainer, silo, replace(task, shared=shared)).main.state


def brute_force(train, val):
    """The validation loss of every penalty at its best scale by grid, and the head of scikit-learn with the lowest one."""
    unit = train.features.double().var(0, correction=0).mean()
    heads = [sklearn_head(train.features, train.y, float(strength * unit)) for strength in STRENGTHS]
    logits = [val.features.double().numpy() @ weight + bias for weight, bias in heads]
    return [min(_cross_entropy(scale * z, val.y) for scale in np.geomspace(0.06, 1000, 400)) for z in logits]


def _cross_entropy(z, y):
    z = z - z.max(1, keepdims=True)
    log = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -log[np.arange(len(z)), y.numpy()].mean()


def test_the_penalty_and_the_scale_are_those_of_the_lowest_validation_loss():
    trainer = Trainer(smooth(), METHODS["ridge"]("own"), TrainingConfig())
    rows = rows_of(3, 80)
    y = (rows.x[:, 0] > 3).long() + (rows.x[:, 1] > 4).long()
    data = SiloDataset(Dataset(rows.x[:50], y[:50]), Dataset(rows.x[50:], y[50:]), CLASSES)
    silo = silo_at(trainer, data=data)
    state = finished(trainer, silo)
    train, val = (features_by(trainer, state, part, data) for part in (data.train, data.val))
    losses = brute_force(train, val)
    found = _cross_entropy((val.features @ state["head.weight"].T + state["head.bias"]).numpy(), val.y)
    assert found == pytest.approx(min(losses), rel=0.01)
    assert max(losses) > 1.1 * min(losses)  # the choice matters


def test_the_scale_is_finite_where_every_row_is_right():
    y = torch.arange(30) % WIDTH
    scores = targets(y, WIDTH)
    scale = best_scale(scores, y)
    # p / (1 - p) = e^s / 2, and label smoothing e has its minimum at p = 1 - e + e / 3
    right = 1 - 2 / 3 / 31
    assert scale == pytest.approx(np.log(2 * right / (1 - right)), rel=1e-3)


def test_a_regression_is_fitted_in_the_silos_own_scale_and_scored_in_the_labels():
    trainer = Trainer(smooth(), METHODS["ridge"]("own"), TrainingConfig())
    data = data_of(2, 60, ())
    data = replace(data, y_mean=float(data.train.y.mean()), y_std=float(data.train.y.std()))
    silo = silo_at(trainer, data=data)
    state = finished(trainer, silo)
    scores = trainer.scores(state, data.train.x, data)[:, 0]
    assert float((scores - data.train.y).std()) < 0.7 * data.y_std
    train = features_by(trainer, state, data.train, data)
    assert float(train.y.mean()) == pytest.approx(0, abs=1e-5)


def learnable(seed, train, val):
    """Labels that depend on the inputs, in the same way at every silo."""
    x = rows_of(seed, train + val).x - seed
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return SiloDataset(Dataset(x[:train], y[:train]), Dataset(x[train:], y[train:]), CLASSES)


def head_of_moments(moments, state):
    """Whether the head is that of these moments with some penalty, up to its scale."""
    ridge, found = Ridge.of(moments), state["head.weight"].T.double().flatten()
    heads = [ridge.head(strength * ridge.unit)[0].flatten() for strength in STRENGTHS]
    return max(float(nn.functional.cosine_similarity(found, head, 0)) for head in heads) > 1 - 1e-6


def test_a_mix_is_half_shared_half_own_unless_another_is_clearly_better():
    trainer = Trainer(smooth(), METHODS["ridge"]("mix"), TrainingConfig())
    silo = silo_at(trainer, data=learnable(1, 40, 4))
    others = [silo_at(trainer, "b", learnable(2, 900, 4)), silo_at(trainer, "c", learnable(3, 900, 4))]
    (one,) = federate(trainer, [silo, *others])
    for val, share in ((silo.data.val.take(torch.tensor([0])), 0.5), (learnable(4, 1, 900).val, 1.0)):
        silo.data = replace(silo.data, val=val)
        state = finished(trainer, silo, one.after.shared)
        train = features_by(trainer, state, silo.data.train, silo.data)
        shared = RidgeSums().moments(one.after.shared["summary/ridge"], train.y, WIDTH)
        own = Rows().moments(train, WIDTH)
        assert head_of_moments(shared.mixed_with(own, share), state)
        assert not head_of_moments(shared.mixed_with(own, 0.25), state)


def test_the_better_head_stays():
    step = RidgeHead(keep_better=True)
    trainer = Trainer(smooth(), Method(frozenset(), finish=(step,)), FULL_BATCH)
    data = learnable(1, 40, 10)
    for val_of_good_head in (True, False):
        silo = silo_at(trainer, data=data)
        state = trainer.initial(WIDTH)
        if val_of_good_head:  # a head that knows the validation rows
            rows = features_by(trainer, state, data.val, data)
            weight, bias = Ridge.of(Rows().moments(rows, WIDTH)).head(1e-6)
            state |= {"head.weight": 20 * weight.T.float(), "head.bias": 20 * bias.float()}
        silo.local = trainer.partition.split(state)[1]
        kept = finished(trainer, silo, {})
        assert torch.equal(kept["head.weight"], state["head.weight"]) is val_of_good_head


def test_without_validation_rows_the_penalty_is_the_default_one():
    trainer = Trainer(smooth(), METHODS["ridge"]("own"), TrainingConfig())
    data = data_of(1, 40)
    data = replace(data, val=Dataset(data.val.x[:0], data.val.y[:0]))
    state = finished(trainer, silo_at(trainer, data=data))
    train = features_by(trainer, state, data.train, data)
    ridge = Ridge.of(Rows().moments(train, WIDTH))
    weight, _ = ridge.head(0.1 * ridge.unit)
    cosine = nn.functional.cosine_similarity(state["head.weight"].T.double().flatten(), weight.flatten(), 0)
    assert float(cosine) == pytest.approx(1, abs=1e-6)


def test_a_head_of_two_layers_is_refused():
    def build():
        head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))
        return nn.Sequential(OrderedDict(features=nn.Linear(COLUMNS, 6), classifier=head))

    spec = split_at_classifier(build(), "classifier", (COLUMNS,), 0)
    trainer = Trainer(replace(spec, features=6), METHODS["ridge"]("own"), TrainingConfig())
    with pytest.raises(ConfigError, match="one linear layer"):
        finished(trainer, silo_at(trainer))


def test_the_rounds_train_nothing():
    trainer = Trainer(mlp(), METHODS["ridge"](), TrainingConfig())
    silos = silos_of(trainer)
    first, last = federate(trainer, silos, 2)
    assert torch.allclose(first.after.shared["summary/ridge"], last.after.shared["summary/ridge"], atol=1e-5)
    assert InProcess(trainer, silos).silos() == list("abc")
    assert same(silos[0].local, trainer.partition.split(trainer.initial(WIDTH))[1])
