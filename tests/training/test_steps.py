"""How fast a step moves the weights, how far it may, and which rows it sees: warm-up, clipping and balanced classes."""

from dataclasses import replace

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from fedtl._util.labels import NO_LABEL
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.methods.base import Phase
from fedtl.methods.optimizers import rate
from fedtl.methods.registry import METHODS
from fedtl.simulation.stackable import why_not_stackable
from fedtl.training.batches import balanced_rows
from fedtl.training.config import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import FULL_BATCH, data_of, mlp, same, silo_at, smooth, task_for


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [1, 3])
def test_the_warmup_is_that_of_torchs_schedulers(schedule, warmup):
    rounds = 8
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rising = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
    after = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, rounds - warmup),
    }[schedule]()
    whole = lr_scheduler.SequentialLR(optimizer, [rising, after], [warmup])
    expected = []
    for _ in range(rounds):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        whole.step()
    assert [rate(schedule, one, rounds, warmup) for one in range(1, rounds + 1)] == pytest.approx(expected)
    assert rate(schedule, rounds + 1, rounds, warmup) == 1.0  # what a silo fits after the last round


def one_step(training, round=1):
    trainer = Trainer(smooth(), METHODS["fedavg"](), training)
    silo = silo_at(trainer, data=data_of(1, 23, target=False))
    update = trainer.fit(silo, replace(task_for(trainer, silo), round=round))
    return torch.cat([tensor.flatten().double() for tensor in update.delta.values()])


def test_a_clipped_step_has_the_direction_of_the_gradient_and_the_length_of_the_clip():
    whole = one_step(FULL_BATCH)
    clip = 0.1 * float(whole.norm()) / FULL_BATCH.lr
    short = one_step(replace(FULL_BATCH, clip=clip))
    assert float(short.norm()) == pytest.approx(FULL_BATCH.lr * clip, rel=1e-4)
    assert torch.allclose(short / short.norm(), whole / whole.norm(), atol=1e-5)
    assert torch.equal(one_step(replace(FULL_BATCH, clip=1e6)), whole)


def test_a_step_of_the_warmup_is_a_part_of_the_whole_step():
    assert torch.allclose(one_step(replace(FULL_BATCH, warmup=2), 2), one_step(FULL_BATCH) * 2 / 3, atol=1e-6)


def test_balanced_rows_are_drawn_by_class_and_then_evenly():
    classes = torch.tensor([0] * 900 + [1] * 90 + [2] * 10 + [NO_LABEL] * 5)
    draws = torch.stack([balanced_rows(classes, torch.Generator().manual_seed(seed)) for seed in range(30)])
    assert draws.shape == (30, 1005)
    shares = torch.bincount(classes[draws].flatten(), minlength=3) / draws.numel()
    assert shares.tolist() == pytest.approx(
        [1 / 3] * 3, abs=4 * (2 / 9 / draws.numel()) ** 0.5
    )  # four deviations
    rows = torch.bincount(draws.flatten(), minlength=1000)[990:]
    assert rows.double().mean() == pytest.approx(draws.numel() / 30, rel=0.05)
    assert (
        float(((rows - rows.double().mean()) ** 2 / rows.double().mean()).sum()) < 27.9
    )  # chi2, 9 degrees, p = 0.001
    only = torch.full((4,), NO_LABEL)
    assert sorted(balanced_rows(only, torch.Generator()).tolist()) == [0, 1, 2, 3]


def test_a_balanced_epoch_has_as_many_rows_and_is_the_same_each_time():
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(batch_size=7, balanced=True))
    silo = silo_at(trainer)
    once, again = (
        [rows for rows, _ in trainer.loop.batches(silo, Phase(), torch.Generator().manual_seed(3))]
        for _ in (1, 2)
    )
    assert [len(rows) for rows in once] == [7, 7, 7, 2]
    assert all(map(torch.equal, once, again))
    plain = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(batch_size=7))
    assert not same(*(one.fit(silo_at(one), task_for(one, silo)).delta for one in (trainer, plain)))


def test_a_clipped_stack_is_refused():
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(clip=1.0))
    assert "clipped" in (why_not_stackable(trainer) or "")


PRIVATE = ["privacy.epsilon=3", "privacy.tuning=public", "method.name=fedavg"]


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("warmup = 3, but", ["rounds=3", "train.warmup=3"]),
        ("train.clip", ["train.clip=0"]),
        ("train.balanced draws", ["train.balanced=true", "data.task=regression"]),
        ("privacy.clip shortens", [*PRIVATE, "train.clip=1"]),
        ("Poisson", [*PRIVATE, "train.balanced=true"]),
        ("train.augment: changed", [*PRIVATE, 'train.augment=[{name="flip"}]']),
        ("did you mean 'flip'", ['train.augment=[{name="flipp"}]']),
        ("degrees", ['train.augment=[{name="rotate", degrees=400}]']),
        ("train.augment.0..angle", ['train.augment=[{name="rotate", angle=4}]']),
    ],
)
def test_settings_that_contradict_each_other_are_refused(match, settings):
    with pytest.raises(ConfigError, match=match):
        load_experiment("digits", settings)
