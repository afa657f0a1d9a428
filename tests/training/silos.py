"""Small silos, their rows and tasks, and a federation in this process."""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import SiloFailed
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Refusal, Task
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.models.registry import model_spec
from fedtl.models.split import split_at_classifier
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo

METHOD_NAMES = list(METHODS)
COLUMNS, CLASSES = 4, ("a", "b", "c")
FULL_BATCH = TrainingConfig(lr=0.3, momentum=0.0, batch_size=10_000)


IMAGES = ("randconv",)  # methods whose inputs are images


def mlp():
    return model_spec("mlp", (COLUMNS,), 0)


def shape_for(method):
    """Return the shape of one input of a method: four columns, or an image of four pixels."""
    return (1, 2, 2) if method in IMAGES else (COLUMNS,)


def spec_for(method):
    """Return the net of ``mlp``, whose tensors are the same for images."""
    return model_spec("mlp", shape_for(method), 0)


def smooth(dropout=0.0):
    """A model without BatchNorm, split into body and head by fedtl."""

    def build():
        features = nn.Sequential(nn.Linear(COLUMNS, 6), nn.Tanh(), nn.Dropout(dropout))
        return nn.Sequential(OrderedDict(features=features, classifier=nn.Linear(6, 1)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return split_at_classifier(build(), "classifier", (COLUMNS,), 0)


def rows_of(seed, n, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, COLUMNS, generator=generator) * 2 + seed
    if not classes:
        return Dataset(x, x.sum(1) * 3 + 50)
    return Dataset(x, torch.randint(len(classes), (n,), generator=generator))


def data_of(seed, n, classes=CLASSES, target=True, **more):
    second = rows_of(seed + 100, 12).x if target else None
    return SiloDataset(rows_of(seed, n, classes), rows_of(seed + 50, 10, classes), classes, second, **more)


def shaped(data, shape):
    """Return the rows with inputs of this shape: columns as the pixels of an image."""
    if len(shape) == 1:
        return data
    train, val = (Dataset(one.x.view(-1, *shape), one.y) for one in (data.train, data.val))
    return replace(data, train=train, val=val, target=data.target.view(-1, *shape))


def silo_at(trainer, name="here", data=None, secret=b"secret"):
    data = data_of(1, 23) if data is None else data
    if trainer.spec.shape in ((COLUMNS,), shape_for(IMAGES[0])):
        data = shaped(data, trainer.spec.shape)
    _, local = trainer.partition.split(trainer.initial(data.width))
    return Silo(name, data, local, secret)


def task_for(trainer, silo, **changes):
    shared, _ = trainer.partition.split(trainer.initial(silo.data.width))
    return replace(Task("test", 1, 4, 0, shared), **changes)


class InProcess:
    def __init__(self, trainer, silos):
        self.trainer, self.members = trainer, {silo.name: silo for silo in silos}

    def silos(self):
        return list(self.members)

    def ask(self, task, silos):
        for name in silos:
            try:
                yield self.trainer.fit(self.members[name], task)
            except SiloFailed as failure:
                yield Refusal(name, task.round, str(failure))


def federate(trainer, silos, number=1, classes=CLASSES):
    shared, _ = trainer.partition.split(trainer.initial(len(classes)))
    plan = FederationConfig("test", 0, number, ServerStep(), wire=trainer.method.wire)
    return list(run_rounds(InProcess(trainer, silos), plan, ServerState(0, shared), trainer.partition.roles))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def by_role(trainer, *wanted):
    return {name for name, role in trainer.partition.roles.items() if role in wanted}
