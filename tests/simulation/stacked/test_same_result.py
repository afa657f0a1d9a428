"""A stack learns what each silo learns alone: by model, method, setting and size of the stack."""

from dataclasses import replace

import pytest
import torch

from fedtl.data.dataset import Dataset, pool
from fedtl.methods.registry import METHODS
from fedtl.models.adapted import AdapterPlan, with_adapters
from fedtl.models.registry import model_spec
from fedtl.simulation import stacked
from fedtl.simulation.engine import Fit
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.tasks.classification import Classification
from fedtl.training.loop import TrainingConfig
from tests.simulation.stacked import stacks
from tests.simulation.stacked.stacks import (
    CLASSES,
    COMPARED,
    FEW,
    SHAPES,
    close,
    compare,
    data_of,
    five,
    silos_of,
    task_of,
    trainer_of,
)

OWN_HEAD = ["local", "fedper", "fedtl", "fedrep", "fedbabu"]


@pytest.mark.parametrize("method", COMPARED)
def test_a_stack_of_convnets_learns_what_each_silo_learns_alone(method):
    """A stack of the model "mlp" is one of the promises of tests/methods/test_promises.py."""
    data = five("convnet")
    compare("convnet", method, {"all": pool(list(data.values()))} if METHODS[method]().pool else data)


@pytest.mark.parametrize("method", ["fedavg", "fedtl", "fedrep"])
def test_a_stack_of_models_without_a_body_learns_what_each_silo_learns_alone(method):
    compare("linear", method, five("linear"))


@pytest.mark.parametrize("method", ["fedavg", "fedtl", "fedrep"])
def test_a_stack_of_resnets_learns_what_each_silo_learns_alone(method):
    data = five("resnet20", sizes=(5, 7, 4, 8, 6))
    compare("resnet20", method, data, size=5)


def test_a_stack_of_the_digits_model_learns_what_each_silo_learns_alone():
    """Some of its 512 channels hardly vary over few rows, where their norm would enlarge rounding errors; so more rows."""
    data = {name: data_of(n, n, SHAPES["digitmodel"]) for name, n in (("a", 20), ("b", 24))}
    compare("digitmodel", "fedtl", data, replace(FEW, batch_size=12))


@pytest.mark.parametrize("kind", ["ffa-lora", "lora", "bottleneck"])
def test_a_stack_of_models_with_adapters_learns_what_each_silo_learns_alone(kind, monkeypatch):
    spec = with_adapters(model_spec("convnet", SHAPES["convnet"], 0), AdapterPlan(kind, 2), SHAPES["convnet"])
    monkeypatch.setattr(stacks, "model_spec", lambda *_: spec)
    compare("convnet", "fedtl", {name: one for name, one in five("convnet").items() if name < "d"})


@pytest.mark.parametrize("method", OWN_HEAD)
def test_silos_with_label_sets_of_their_own(method):
    few, many = ("x", "y"), ("p", "q", "r", "s")
    compare("mlp", method, five("mlp", (few, CLASSES, few, many, CLASSES)), size=2)


@pytest.mark.parametrize("method", ["fedavg", "fedtl"])
def test_regression_with_a_scale_of_each_silos_own(method):
    data = five("mlp", ((),) * 5)
    own = {
        name: replace(its, y_mean=float(its.train.y.mean()), y_std=float(its.train.y.std()))
        for name, its in data.items()
    }
    compare("mlp", method, own)


@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(lr=0.1, momentum=0.0, batch_size=4),
        TrainingConfig(lr=0.05, momentum=0.9, weight_decay=0.3, batch_size=4, epochs=2),
        TrainingConfig(lr=0.05, batch_size=4, freeze=1, body_lr=0.1, weight_decay=0.1),
        TrainingConfig(lr=0.05, batch_size=10_000, epochs=3),
        TrainingConfig(lr=0.1, schedule="cosine", batch_size=4),
        *(
            TrainingConfig(optimizer=name, lr=0.003, weight_decay=0.1, batch_size=4, body_lr=0.5)
            for name in ("adam", "adamw", "adagrad", "adadelta", "rmsprop", "nadam")
        ),
    ],
    ids=[
        "plain",
        "decay",
        "freeze",
        "one batch",
        "cosine",
        "adam",
        "adamw",
        "adagrad",
        "adadelta",
        "rmsprop",
        "nadam",
    ],
)
@pytest.mark.parametrize("method", ["fedtl", "fedrep"])
def test_settings_have_the_same_effect_in_a_stack(method, training):
    compare("mlp", method, five("mlp"), training)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_the_size_of_a_stack_does_not_change_the_result(size):
    compare("mlp", "fedavg", five("mlp"), size=size)


def test_a_stack_of_one():
    trainer = trainer_of("mlp")
    (silo,), (other,) = (silos_of(trainer, {"a": data_of(1, 13, (5,))}) for _ in range(2))
    update = stacked.fit(trainer, [silo], task_of(trainer, silo))["a"]
    wanted = trainer.fit(other, task_of(trainer, other))
    close(update.delta, wanted.delta)
    close(silo.local, other.local)


def test_pixels_in_single_precision():
    torch.set_default_dtype(torch.float32)
    trainer = trainer_of("convnet")
    found = []
    for engine in (Stacked(trainer, 4), Serial(trainer)):
        data = {}
        for seed, (name, its) in enumerate(five("convnet").items()):
            generator = torch.Generator().manual_seed(seed)
            pixels = torch.randint(0, 256, its.train.x.shape, dtype=torch.uint8, generator=generator)
            data[name] = replace(its, train=Dataset(pixels, its.train.y), val=Dataset(pixels, its.train.y))
        silos = silos_of(trainer, data)
        found.append((dict(engine.each(Fit(task_of(trainer, silos[0])), silos)), silos))
    (updates, silos), (wanted, others) = found
    for name, update in wanted.items():
        assert updates[name].metrics == update.metrics
        for tensor, value in update.delta.items():
            torch.testing.assert_close(updates[name].delta[tensor], value, rtol=1e-3, atol=1e-5)
    for silo, other in zip(silos, others, strict=True):
        for tensor, value in other.local.items():
            torch.testing.assert_close(silo.local[tensor], value, rtol=1e-3, atol=1e-5)


def test_silos_whose_losses_have_weights_of_their_own_are_not_mixed():
    data = five("mlp")
    for name, its in data.items():
        task = Classification(given="balanced").at_silo(its.classes, its.train.y)
        data[name] = replace(its, task=task)
    assert len({its.task for its in data.values()}) > 1
    compare("mlp", "fedavg", data)
