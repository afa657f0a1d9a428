"""Episodic training and prototypes that cross, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.methods.base import LabelledFeatures, own_labels
from fedtl.methods.fedproto import PROTOTYPES, Prototypes, ToPrototypes, fedproto, prototypes_of
from fedtl.methods.heads.prototype import prototype
from fedtl.methods.losses import Batch, Computed, Forward, Pass, mean_loss
from fedtl.methods.protonet import Episode, PrototypeHead, protonet
from fedtl.methods.registry import METHODS
from fedtl.models.net import seeded
from fedtl.models.roles import Role
from fedtl.training.at_home import HomeSite, features_by
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import (
    CLASSES,
    COLUMNS,
    FULL_BATCH,
    data_of,
    federate,
    mlp,
    rows_of,
    same,
    silo_at,
    task_for,
)

Y = torch.tensor([2, 0, 2, 5, 0, 2, -1, 0, 2, -1, 2])  # class 5 has one row, two rows have no label
F = torch.randn(len(Y), 4, generator=torch.Generator().manual_seed(0))


def pass_of(features, y, width=6, summaries=None, aux=None):
    result = Computed(Pass(features, torch.zeros(len(y), width)), aux or {})
    return Forward(Batch(features, y, torch.zeros(len(y))), result, 0.0, summaries or {})


def by_hand(features, y, shots):
    """The prototypical loss of a batch: by class, the first half of the rows against the rest."""
    rows = {c: [i for i in range(len(y)) if y[i] == c] for c in (0, 2)}
    first = {c: mine[: min(len(mine) // 2, shots or 99)] for c, mine in rows.items()}
    means = np.stack([features[first[c]].mean(0) for c in (0, 2)])
    losses = []
    for at, c in enumerate((0, 2)):
        for i in rows[c][len(first[c]) :]:
            losses.append(-log_softmax(-((features[i] - means) ** 2).sum(1))[at])
    return np.mean(losses), means, first, rows


@pytest.mark.parametrize("shots", [0, 1])
def test_a_batch_is_an_episode(shots):
    found = float(Episode(shots).loss(pass_of(F, Y)))
    assert found == pytest.approx(by_hand(F.double().numpy(), Y.tolist(), shots)[0], abs=1e-5)


def test_the_relation_network_learns_from_the_same_pairs():
    with seeded(0):  # with few other weights a whole layer answers 0
        module = Episode(relation=True).modules(4, (4,))["relation"]
    features = F.clone().requires_grad_()
    plain, _ = Episode().loss(pass_of(F, Y)), None
    loss = Episode(relation=True).loss(pass_of(features, Y, aux={"relation": module}))
    _, means, first, rows = by_hand(F.double().numpy(), Y.tolist(), 0)
    losses = []
    for at, c in enumerate((0, 2)):
        for i in rows[c][len(first[c]) :]:
            pairs = torch.tensor(np.stack([np.concatenate([one, F[i].numpy()]) for one in means])).float()
            losses.append(-log_softmax(module(pairs).detach().numpy()[:, 0])[at])
    assert float((loss - plain).detach()) == pytest.approx(np.mean(losses), abs=1e-5)
    (through,) = torch.autograd.grad(loss - Episode().loss(pass_of(features, Y)), features, retain_graph=True)
    assert float(through.abs().max()) < 1e-6  # the body is trained by the distances alone
    loss.backward()
    assert all(one.grad.abs().sum() > 0 for one in module.parameters())


@pytest.mark.parametrize("y", [[0, 0, 0, 0], [0, 1, 2, 3], [-1, -1, 0, 0], [0, 0, 1, 2]])
def test_a_batch_without_two_classes_of_two_rows_has_no_loss(y):
    features = F[:4].clone().requires_grad_()
    loss = Episode().loss(pass_of(features, torch.tensor(y)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not features.grad.any()


def test_a_head_of_prototypes_answers_as_the_nearest_prototype():
    trainer = Trainer(mlp(), protonet(), FULL_BATCH)
    silo = silo_at(trainer, data=replace(data_of(1, 40), train=rows_of(1, 40, CLASSES[:2])))
    task = task_for(trainer, silo)
    state = trainer.initial(3)
    done = PrototypeHead()(HomeSite(trainer, silo, task, state, 1), state, {})
    rows = features_by(trainer, state, silo.data.train, silo.data)
    others = features_by(trainer, state, silo.data.val, silo.data)
    scores = trainer.scores(done, silo.data.val.x, silo.data)
    wanted = prototype(LabelledFeatures(rows.features, rows.y), 2, others.features)
    gap = scores[:, 0] - scores[:, 1]
    assert torch.allclose(gap, wanted[:, 0] - wanted[:, 1], atol=1e-3)
    assert float((scores[:, 2] - scores[:, :2].min(1).values).max()) < -1e3  # a class without rows


def test_protonet_trains_the_body_in_rounds_and_the_head_at_home():
    trainer = Trainer(mlp(), protonet(relation=True), TrainingConfig(batch_size=10, lr=0.1))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    update = trainer.fit(silo, task)
    assert any(name.startswith("aux.relation.") for name in update.delta)
    assert all(update.delta[name].any() for name in update.delta if name.endswith("weight"))
    assert {trainer.partition.roles[name] for name in update.delta} == {Role.BODY, Role.NORM, Role.AUX}
    assert same(
        {name: silo.local[name] for name in ("head.weight", "head.bias")},
        {name: trainer.initial(3)[name] for name in ("head.weight", "head.bias")},
    )


# FedProto


def rows_with(seed, classes, count=20):
    rows = rows_of(seed, count)
    return Dataset(rows.x, rows.y % classes)


def test_the_prototypes_that_cross_are_the_mean_features_over_all_silos():
    trainer = Trainer(mlp(), fedproto(clip=0.7), FULL_BATCH)
    silos = [
        silo_at(trainer, "a", replace(data_of(1, 20), train=rows_with(1, 2, 20))),
        silo_at(trainer, "b", replace(data_of(2, 31), train=rows_with(2, 3, 31))),
    ]
    (first,) = federate(trainer, silos, 1)
    assert first.after.shared.keys() == {f"summary/{PROTOTYPES}"}
    sums, counts = np.zeros((3, mlp().features)), np.zeros(3)
    for silo in silos:
        state = trainer.partition.join(first.after.shared, silo.local)
        net = trainer.net(3)
        net.load_state_dict({name: one for name, one in state.items() if "/" not in name})
        with torch.no_grad():
            features = net.train(False).body(silo.data.train.x).double().numpy()
        assert (np.linalg.norm(features, axis=1) > 0.7).any()
        features *= np.minimum(1, 0.7 / np.linalg.norm(features, axis=1, keepdims=True))
        for c in range(3):
            sums[c] += features[silo.data.train.y == c].sum(0)
            counts[c] += int((silo.data.train.y == c).sum())
    means, present = prototypes_of(first.after.shared[f"summary/{PROTOTYPES}"], 0.7)
    np.testing.assert_allclose(means.numpy(), sums / counts[:, None], atol=1e-5)
    assert present.tolist() == [True] * 3


def test_features_are_pulled_to_the_prototype_of_their_class():
    summary, clip = Prototypes(2.0), 2.0
    received = summary.rows(pass_of(F[:6], torch.tensor([0, 0, 1, 1, 1, 0]), 3)).mean(0)
    y = torch.tensor([1, 0, 2, -1])
    out = pass_of(F[6:10], y, 3, {PROTOTYPES: received})
    rows = F.double().numpy() * np.minimum(1, clip / np.linalg.norm(F.double().numpy(), axis=1))[:, None]
    means = [rows[[0, 1, 5]].mean(0), rows[[2, 3, 4]].mean(0)]
    wanted = [((rows[6] - means[1]) ** 2).sum() / 4, ((rows[7] - means[0]) ** 2).sum() / 4]
    assert float(mean_loss(ToPrototypes(3.0, clip), out)) == pytest.approx(3 * np.mean(wanted), abs=1e-5)
    before = pass_of(F[6:10], y, 3, {PROTOTYPES: torch.zeros(3, 5)})
    assert float(mean_loss(ToPrototypes(3.0, clip), before)) == 0  # nothing received yet


def test_no_row_is_longer_than_the_bound_and_one_without_label_is_zero():
    vectors = Prototypes(1.5).rows(pass_of(100 * F, Y, 6))
    lengths = vectors.flatten(1).norm(dim=1)
    assert vectors.shape == (len(Y), *Prototypes().shape(4, 6))
    assert torch.allclose(lengths[Y >= 0], torch.full((9,), Prototypes.bound), atol=1e-6)
    assert not vectors[Y < 0].any()


def test_noise_makes_no_prototype_longer_than_a_feature():
    noisy = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 0.01
    noisy[:, -1] = torch.tensor([1e-9, 2e-4, -1e-3, 0.2, 0.3, 0.5])
    means, present = prototypes_of(noisy, 2.0)
    assert float(means.norm(dim=1).max()) == pytest.approx(2.0)
    assert present.tolist() == [False, True, False, True, True, True]


def test_without_strength_every_silo_trains_alone():
    alone, pulled = (Trainer(mlp(), method, FULL_BATCH) for method in (METHODS["local"](), fedproto(0.0)))
    silos = [silo_at(trainer, "a", data_of(1, 20)) for trainer in (alone, pulled)]
    for trainer, silo in zip((alone, pulled), silos, strict=True):
        for number in (1, 2):
            silo_task = task_for(trainer, silo, round=number)
            trainer.fit(silo, silo_task)
    assert all(torch.equal(silos[0].local[name], silos[1].local[name]) for name in silos[0].local)
    assert not own_labels(fedproto())


@pytest.mark.parametrize("name", ["protonet", "fedproto"])
def test_a_regression_is_refused_before_its_data_is_read(name):
    with pytest.raises(ConfigError, match="data.task"):
        load_experiment("digits", ["data.task=regression", f"method.name={name}"])
    assert COLUMNS == 4
