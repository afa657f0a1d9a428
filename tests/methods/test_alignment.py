"""Three silos, of which one has no labels and rotated inputs, in this process: what training with a term does to its distance."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.methods.random_features import WIDTHS, unit
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.training.at_home import received_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.methods.test_embeddings import kernel
from tests.training.silos import federate, silo_at, task_for

CLASSES = ("0", "1")
NOBODY = Dataset(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def moons(angle, seed):
    x, y = make_moons(150, noise=0.08, random_state=seed)
    turn = np.deg2rad(angle)
    x = (x - x.mean(0)) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return Dataset(torch.from_numpy(x).float(), torch.from_numpy(y))


def distance(features, others):
    a, b = (unit(part).numpy() for part in (features, others))
    return kernel(a, a, WIDTHS).mean() + kernel(b, b, WIDTHS).mean() - 2 * kernel(a, b, WIDTHS).mean()


@cache
def distance_after(name, **settings):
    """The squared MMD, by the exact kernel, from the rows of the silos with labels to those of the one without."""
    trainer = Trainer(
        model_spec("mlp", (2,), 0), METHODS[name](**settings), TrainingConfig(lr=0.05, batch_size=32)
    )
    rows = [moons(-10, 0), moons(10, 1), moons(65, 2)]
    data = [SiloDataset(part, NOBODY, CLASSES) for part in rows]
    data[2] = SiloDataset(NOBODY, NOBODY, CLASSES, rows[2].x, one_domain=True)
    silos = [silo_at(trainer, name, own) for name, own in zip("abc", data, strict=True)]
    shared = federate(trainer, silos, 12, CLASSES)[-1].after.shared
    features = []
    for silo, part in zip(silos, rows, strict=True):
        model = received_model(trainer, silo, replace(task_for(trainer, silo), shared=shared))
        net = trainer.net(len(CLASSES)).eval()
        net.load_state_dict(model)
        with torch.no_grad():
            features.append(net.body(part.x).double())
    return distance(torch.cat(features[:2]), features[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"), [("silo_mmd", {"weight": 5.0}), ("silo_mmd", {"weight": 5.0, "by_label": True})]
)
def test_training_with_silo_mmd_brings_the_silo_without_labels_nearer(name, settings):
    """A weight of 0 is the same method with the same silos and batches; only the term's gradient is absent."""
    one, other = distance_after(name, **settings), distance_after("silo_mmd", weight=0.0)
    assert one < 0.8 * other, (one, other)
