"""A head whose classes are equally far from each other: against numpy, and in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.methods.registry import METHODS
from fedtl.methods.simplex import LENGTH, simplex
from fedtl.methods.tune import Tune
from fedtl.training.at_home import own_model, tuned_model
from fedtl.training.config import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import data_of, federate, mlp, same, silo_at, task_for


@pytest.mark.parametrize(("classes", "shape"), [(2, (5,)), (3, (3,)), (10, (64,)), (4, (6, 1, 1))])
def test_any_two_classes_have_the_smallest_cosine_that_all_pairs_can_have(classes, shape):
    torch.manual_seed(classes)
    head = {"head.weight": torch.randn(classes, *shape), "head.bias": torch.randn(classes)}
    started = simplex(head)
    w = started["head.weight"].numpy().reshape(classes, -1).astype(np.float64)
    gram = np.full((classes, classes), -1 / (classes - 1))
    np.fill_diagonal(gram, 1.0)
    np.testing.assert_allclose(w @ w.T, LENGTH**2 * gram, atol=1e-5)
    assert started["head.weight"].shape == head["head.weight"].shape
    assert not started["head.bias"].any()
    moved = np.linalg.lstsq(head["head.weight"].numpy().reshape(classes, -1).T, w.T, rcond=None)[1]
    assert np.all(moved < 1e-8)  # the classes lie in the space of the initial weights: the seed alone decides


def test_one_output_and_more_outputs_than_features_keep_their_directions():
    for rows in (torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0], [3.0, 4.0]])):
        started = simplex({"head.weight": rows})["head.weight"]
        torch.testing.assert_close(started, LENGTH * rows / rows.norm(dim=1, keepdim=True))


def test_an_output_that_starts_with_zeros_is_refused():
    with pytest.raises(ConfigError, match="simplex"):
        simplex({"head.weight": torch.zeros(1, 4), "head.bias": torch.zeros(1)})


@pytest.mark.parametrize(
    "head",
    [
        {"head.0.weight": torch.ones(8, 4), "head.0.bias": torch.ones(8), "head.2.weight": torch.ones(3, 8)},
        {"head.0.weight": torch.ones(4), "head.1.weight": torch.ones(3, 4), "head.1.bias": torch.ones(3)},
    ],
)
def test_a_head_of_several_layers_is_refused(head):
    with pytest.raises(ConfigError, match="one linear layer"):
        simplex(head)


def test_it_stays_until_the_silo_tunes_and_a_head_from_a_file_comes_first():
    method = replace(METHODS["fedtl"](head="simplex"), tune=Tune(epochs=2))
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silos = [silo_at(trainer, name, data_of(seed, 15)) for seed, name in enumerate("ab")]
    first = trainer.initial(3)
    assert torch.allclose(first["head.weight"].norm(dim=1), torch.tensor(LENGTH))
    federate(trainer, silos, number=2)
    for silo in silos:
        assert torch.equal(silo.local["head.weight"], first["head.weight"])
        tuned = tuned_model(trainer, silo, task_for(trainer, silo, round=3))
        assert not torch.equal(tuned["head.weight"], first["head.weight"])
    given = torch.ones_like(first["head.weight"])
    assert torch.equal(replace(trainer, start={"head.weight": given}).initial(3)["head.weight"], given)


def test_the_model_that_a_silo_trains_alone_is_that_of_a_trained_head():
    def alone(head):
        method = replace(METHODS["fedtl"](head=head), tune=Tune(epochs=2))
        trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
        silo = silo_at(trainer, "a", data_of(0, 15))
        return own_model(trainer, silo, task_for(trainer, silo, round=3))

    assert same(alone("simplex"), alone("trained"))
