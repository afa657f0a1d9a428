"""A trainer with a small net, and a silo of it whose rounds are private and charged."""

from dataclasses import replace

import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import DECLARED
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.privacy_plan import LedgerLocation, plan_guarantee
from fedtl.messages import Task
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.privacy import taint
from fedtl.privacy.ledger_reading import read_state
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer
from tests.experiments import ROUNDS_ONLY

CLASSES = ("a", "b", "c")
SHAPE = (1, 8, 8)
SMALL = ["rounds=2", "data.limit=40", "engine.name=serial", "privacy.epsilon=8", *ROUNDS_ONLY]


def bench_of(method="fedtl", training=None, model="convnet"):
    plan = with_private_norms(model_spec(model, SHAPE, 0))
    made = METHODS[method]() if isinstance(method, str) else method
    return Trainer(plan, replace(made, exact_statistics="never"), training or TrainingConfig(batch_size=16))


def data_of(seed=0, n=60):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, *SHAPE, generator=generator) + y[:, None, None, None]
    return SiloDataset(Dataset(x, y), Dataset(x[:9], y[:9]), CLASSES, origins=DECLARED)


def silo_of(trainer, folder, data=None, rounds=3, name="here", **settings):
    data = data or data_of()
    private = PrivacySettings(**{"epsilon": 8.0, **settings})
    its = plan_guarantee(
        private, trainer, data, rounds, 0, LedgerLocation(folder / "ledger.sqlite", name, b"key")
    )
    _, local = trainer.partition.split(trainer.initial(3))
    return Silo(name, data, local, b"secret", its, taint.untrained_labels(trainer.partition.roles))


def task_of(trainer, number=1, **changes):
    shared, _ = trainer.partition.split(trainer.initial(3))
    return Task(**{"study": "study", "round": number, "rounds": 3, "seed": 0, "shared": shared, **changes})


def studies_of(silo):
    its = silo.guarantee
    state = read_state(its.account.path, its.account.dataset)
    return state.studies if state else {}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def meet(module, inputs, output):
    """A forward hook through which every record sees all others."""
    return output + 0.1 * output.mean(0)
