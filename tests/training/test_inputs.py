"""Batches, inputs, heads and labels of a trainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.methods.base import Phase
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import (
    CLASSES,
    COLUMNS,
    FULL_BATCH,
    data_of,
    federate,
    mlp,
    moved,
    rows_of,
    same,
    silo_at,
    smooth,
    task_for,
)


@pytest.mark.parametrize(("n", "batches"), [(8, 2), (9, 2), (10, 3), (5, 1), (4, 1), (3, 1)])
def test_a_last_batch_of_one_row_joins_the_one_before(n, batches):
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(batch_size=4))
    silo = silo_at(trainer, data=data_of(1, n))
    trainer.fit(silo, task_for(trainer, silo))
    assert int(silo.local["body.features.2.num_batches_tracked"]) == batches


@pytest.mark.parametrize("n", [256, 257, 600])
def test_evaluation_and_adaptation_take_any_number_of_rows(n):
    trainer = Trainer(mlp(), METHODS["fedtl"](), FULL_BATCH)
    state, x = trainer.initial(3), rows_of(1, n).x
    assert trainer.scores(state, x, data_of(1, 5)).shape == (n, 3)
    adapted = trainer.adapt(state, x, 3)
    h = x.double().numpy() @ state["body.features.1.weight"].double().numpy().T
    np.testing.assert_allclose(adapted["body.features.2.running_mean"], h.mean(0), atol=1e-4)
    np.testing.assert_allclose(adapted["body.features.2.running_var"], h.var(0, ddof=1), rtol=1e-4)
    assert trainer.scores(state, x[:0], data_of(1, 5)).shape == (0, 3)


def test_every_row_is_seen_once_an_epoch():
    trainer = Trainer(smooth(), METHODS["fedavg"](), TrainingConfig(batch_size=7, epochs=3))
    silo = silo_at(trainer)
    generator = torch.Generator().manual_seed(0)
    steps = list(trainer.loop.batches(silo, Phase(epochs=3), generator))
    for epoch in range(3):
        seen = torch.cat([rows for rows, _ in steps[epoch * 4 : epoch * 4 + 4]])
        assert sorted(seen.tolist()) == list(range(23))
    assert len(steps) == 12


def test_pixels_become_minus_one_to_one():
    trainer = Trainer(model_spec("convnet", (1, 8, 8), 0), METHODS["fedavg"](), FULL_BATCH)
    pixels = torch.randint(
        0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = SiloDataset(Dataset(pixels, torch.arange(5) % 3), Dataset(pixels, torch.arange(5) % 3), CLASSES)
    state = trainer.initial(3)
    scores = trainer.scores(state, pixels, data)
    assert torch.allclose(
        scores, trainer.scores(state, pixels.double().div(127.5).sub(1).float(), data), atol=1e-5
    )
    assert pixels.dtype == torch.uint8
    assert pixels.max() > 1


def test_heads_of_different_widths_share_one_body():
    trainer = Trainer(mlp(), METHODS["fedper"](), TrainingConfig(batch_size=8))
    narrow = silo_at(trainer, "narrow", data_of(1, 20, ("x", "y")))
    wide = silo_at(trainer, "wide", data_of(2, 20))
    for one in federate(trainer, [narrow, wide], number=2):
        assert list(one.replies) == ["narrow", "wide"]
    assert narrow.local["head.weight"].shape == (2, 64)
    assert wide.local["head.weight"].shape == (3, 64)


def test_start_replaces_first_weights_of_the_same_shape():
    start = {"body.features.1.weight": torch.ones(64, COLUMNS), "head.weight": torch.ones(7, 64)}
    trainer = Trainer(mlp(), METHODS["fedavg"](), FULL_BATCH, start=start)
    plain = Trainer(mlp(), METHODS["fedavg"](), FULL_BATCH)
    assert moved(plain.initial(3), trainer.initial(3)) == {"body.features.1.weight"}
    assert torch.equal(trainer.initial(7)["head.weight"], torch.ones(7, 64))


def test_the_initial_state_does_not_depend_on_what_was_trained():
    trainer = Trainer(mlp(), METHODS["dann"](), TrainingConfig(batch_size=8))
    before = trainer.initial(3)
    silo = silo_at(trainer)
    trainer.fit(silo, task_for(trainer, silo))
    assert same(before, trainer.initial(3))
    assert same(before, Trainer(mlp(), METHODS["dann"](), TrainingConfig()).initial(3))


def test_scores_are_in_the_labels_own_unit():
    trainer = Trainer(smooth(), METHODS["fedavg"](), FULL_BATCH)
    plain, scaled = data_of(1, 9, ()), data_of(1, 9, (), y_mean=50.0, y_std=4.0)
    state, x = trainer.initial(1), rows_of(1, 6).x
    assert plain.width == 1
    raw = trainer.scores(state, x, plain)
    assert torch.allclose(trainer.scores(state, x, scaled), raw * 4 + 50, atol=1e-4)


def test_training_on_values_with_a_scale_is_training_on_scaled_values():
    deltas = []
    for scaled in (False, True):
        trainer = Trainer(smooth(), METHODS["fedavg"](), TrainingConfig(lr=0.1, batch_size=8, epochs=2))
        data = data_of(1, 23, (), y_mean=50.0, y_std=4.0)
        if scaled:
            data = replace(data, train=Dataset(data.train.x, (data.train.y - 50) / 4), y_mean=0.0, y_std=1.0)
        silo = silo_at(trainer, data=data)
        deltas.append(trainer.fit(silo, task_for(trainer, silo)).delta)
    assert all(torch.allclose(deltas[0][name], deltas[1][name], atol=1e-5) for name in deltas[0])


def test_regression_learns_in_the_labels_own_unit():
    """y = 3 sum x + 50; after training the error is a small part of the labels' spread."""
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(lr=0.05, batch_size=32, epochs=30))
    train = rows_of(1, 200, ())
    data = data_of(1, 200, (), y_mean=train.y.mean().item(), y_std=train.y.std().item())
    silo = silo_at(trainer, data=data)
    task = task_for(trainer, silo)
    update = trainer.fit(silo, task)
    state = trainer.partition.join({n: task.shared[n] + update.delta[n] for n in task.shared}, silo.local)
    error = (trainer.scores(state, train.x, data)[:, 0] - train.y).pow(2).mean().sqrt()
    assert error < 0.3 * train.y.std()
    assert update.metrics["rmse"] == pytest.approx((2 * update.metrics["loss"]) ** 0.5)


def test_regression_with_a_second_domain_ignores_its_absent_labels():
    trainer = Trainer(mlp(), METHODS["mmd"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer, data=data_of(1, 23, ()))
    assert all(
        torch.isfinite(value).all() for value in trainer.fit(silo, task_for(trainer, silo)).delta.values()
    )
