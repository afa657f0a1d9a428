"""Silos trained in one stack, and the same silos one after another on the serial engine."""

from contextlib import contextmanager

import pytest
import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.config.schema import CompareSettings
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Task
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.models.registry import model_spec
from fedtl.simulation.engine import Simulation
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

COMPARED = [*CompareSettings().methods, "fedrep", "fedbabu", "silobn", "lgfedavg"]
SHAPES = {"mlp": (5,), "linear": (5,), "convnet": (1, 8, 8), "resnet20": (1, 8, 8), "digitmodel": (1, 8, 8)}
CLASSES = ("a", "b", "c")
SIZES = (6, 13, 9, 4, 17)  # in batches of 4: 9, 13 and 17 have a last one of a single row, 6 one of two
FEW = TrainingConfig(lr=0.05, batch_size=4, weight_decay=0.01)


@contextmanager
def in_float64():
    """In float64, rounding neither hides an error nor grows into one over the rounds."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def rows_of(seed, n, shape, classes):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator) * (1 + seed % 3) + seed / 10
    if not classes:
        return Dataset(x, x.flatten(1).sum(1) * 3 + 50)
    return Dataset(x, torch.randint(len(classes), (n,), generator=generator))


def data_of(seed, n, shape, classes=CLASSES, **more):
    return SiloDataset(
        rows_of(seed, n, shape, classes), rows_of(seed + 50, 5, shape, classes), classes, **more
    )


def five(model, labels=(CLASSES,) * 5, sizes=SIZES, **more):
    return {
        name: data_of(seed, n, SHAPES[model], classes, **more)
        for seed, (name, n, classes) in enumerate(zip("abcde", sizes, labels, strict=True))
    }


def trainer_of(model, method="fedtl", training=FEW):
    method = METHODS[method]() if isinstance(method, str) else method
    return Trainer(model_spec(model, SHAPES[model], 0), method, training)


def silos_of(trainer, data):
    silos = []
    for name, its in data.items():
        _, local = trainer.partition.split(trainer.initial(its.width))
        silos.append(Silo(name, its, local, name.encode()))
    return silos


def task_of(trainer, silo, number=1):
    shared, _ = trainer.partition.split(trainer.initial(silo.data.width))
    return Task("test", number, 3, 0, shared)


def federate(engine, trainer, data, number=2):
    """The server's and every silo's final tensors, and the replies of each round."""
    silos = silos_of(trainer, data)
    shared, _ = trainer.partition.split(trainer.initial(silos[0].data.width))
    simulation = Simulation(engine, {silo.name: silo for silo in silos})
    plan = FederationConfig("test", 0, number, ServerStep())
    every = list(run_rounds(simulation, plan, ServerState(0, shared), trainer.partition.roles))
    replies = [{name: (r.metrics, r.weight) for name, r in one.replies.items()} for one in every]
    return every[-1].after.shared, {silo.name: silo.local for silo in silos}, replies


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-7, atol=1e-9), name


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def compare(model, method, data, training=FEW, size=3, moves=True):
    """Two rounds on both engines give the same, and some tensor has changed, unless the method does not train in rounds."""
    trainer = trainer_of(model, method, training)
    shared, locals_, replies = federate(Stacked(trainer, size), trainer, data)
    shared_too, locals_too, replies_too = federate(Serial(trainer), trainer, data)
    close(shared, shared_too)
    for name, local in locals_too.items():
        close(locals_[name], local)
    for one, other in zip(replies, replies_too, strict=True):
        assert one.keys() == other.keys()
        for name, (metrics, weight) in other.items():
            assert one[name][0] == pytest.approx(metrics, rel=1e-5)
            assert one[name][1] == weight
    before = trainer.initial(next(iter(data.values())).width)
    after = {**shared, **next(iter(locals_.values()))}
    assert any(not torch.equal(after[name], before[name]) for name in before) or not moves
