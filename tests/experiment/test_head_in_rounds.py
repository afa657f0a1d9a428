"""Which heads the rounds of ``fedtl`` leave fixed, and that a study trains as if its settings said so."""

import numpy as np
import pytest
import torch

from fedtl.api.building import create_method
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.config.schema import MethodSettings
from fedtl.experiment.head_in_rounds import named_head
from fedtl.experiment.study import build
from fedtl.methods.simplex import LENGTH
from fedtl.models.roles import Role
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.trainer import Trainer

CLASSES = (0, 1, 2)


def save(folder, silo, labels):
    rng = np.random.default_rng(len(silo))
    x, y = rng.normal(size=(24, 5)).astype(np.float32), np.resize(labels, 24)
    np.savez(folder / f"{silo}.npz", train_x=x, train_y=y, test_x=x[:6], test_y=y[:6])


@pytest.fixture
def trainer(tmp_path):
    """The trainer of a study of two silos with these labels and settings."""

    def made(first=CLASSES, second=CLASSES, **tables) -> Trainer:
        save(tmp_path, "a", first)
        save(tmp_path, "bb", second)
        data = {"source": "npz", "path": str(tmp_path), **tables.pop("data", {})}
        experiment = parse_experiment({"data": data, "model": {"name": "mlp"}, **tables})
        with temporary_store() as store:
            return build(experiment, store, store).trainer

    return made


def is_fixed(trainer):
    (phase,) = trainer.method.phases
    assert not trainer.method.auto_head
    fixed = Role.HEAD not in phase.train
    assert fixed == (trainer.method.head_start is not None)
    return fixed


def test_heads_of_the_same_three_classes_are_a_simplex(trainer):
    made = trainer()
    assert is_fixed(made)
    lengths = made.initial(3)["head.weight"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), LENGTH))
    assert made.method == trainer(method={"head": "simplex"}).method


@pytest.mark.parametrize(
    ("labels", "tables"),
    [
        (((0, 1), (0, 1)), {}),  # two classes
        ((CLASSES, (0, 1, 3)), {}),  # others at each silo
        ((CLASSES, (0, 1)), {}),  # a class that one silo does not have
        ((CLASSES, CLASSES), {"data": {"task": "regression"}}),
        ((CLASSES, CLASSES), {"data": {"task": "ordinal", "classes": ["0", "1", "2"]}}),
        ((CLASSES, CLASSES), {"model": {"name": "linear"}}),  # no body
        (
            (CLASSES, CLASSES),
            {"model": {"name": "mlp", "settings": {"width": 2}}},
        ),  # a simplex needs three features
        ((CLASSES, CLASSES), {"model": {"name": "mlp", "freeze": 1}}),
        ((CLASSES, CLASSES), {"model": {"name": "mlp", "pretrain_on": ["bb"]}}),
        ((CLASSES, CLASSES), {"method": {"cut": 1}}),
        ((CLASSES, CLASSES), {"method": {"tune": {"epochs": 0}}}),
        ((CLASSES, CLASSES), {"method": {"tune": {"what": "norm"}}}),
        ((CLASSES, CLASSES), {"train": {"roles": ["norm", "head"]}}),
        ((CLASSES, CLASSES), {"privacy": {"epsilon": 5.0, "delta": 1e-3}, "data": {"scale": "none"}}),
    ],
)
def test_heads_are_trained_where_a_simplex_was_not_measured_or_does_not_fit(trainer, labels, tables):
    assert not is_fixed(trainer(*labels, **tables))


def test_settings_come_before_the_data(trainer):
    assert not is_fixed(trainer(method={"head": "trained"}))
    assert is_fixed(trainer((0, 1), (0, 1), method={"head": "simplex"}))


def test_a_method_of_python_is_settled_as_one_by_name_and_a_plan_names_the_head(trainer):
    assert create_method("fedtl").auto_head
    named = named_head(MethodSettings(), trainer())
    assert named.own["head"] == "simplex"
    assert named_head(MethodSettings(), trainer((0, 1), (0, 1))).own["head"] == "trained"
    assert named_head(MethodSettings(name="fedavg"), trainer()) == MethodSettings(name="fedavg")
