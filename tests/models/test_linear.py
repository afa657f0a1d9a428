"""The model without a body: against numpy and scikit-learn; methods that share nothing of it train each silo alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from fedtl.cli.main import app
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import DECLARED
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.privacy_plan import LedgerLocation, plan_guarantee
from fedtl.methods.base import Phase
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import model_part
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.roles import Role, roles
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import data_of, federate, same, shape_for, silo_at, task_for

COLUMNS = 4
OWN_HEADS = ("fedtl", "fedper", "fedrep", "fedbabu")


def linear():
    return model_spec("linear", (COLUMNS,), 0)


def silos_at(trainer):
    return [silo_at(trainer, name, data_of(seed, 12 + seed)) for seed, name in enumerate("abc")]


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_scores_are_a_matrix_product_of_flattened_inputs(shape):
    net = model_spec("linear", shape, 3).net(2)
    assert not any(parameter.any() for parameter in net.parameters())  # it begins at zero, at any width
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    weight, bias = (tensor.detach().numpy() for tensor in (net.head.weight, net.head.bias))
    np.testing.assert_allclose(net(x).detach().numpy(), x.numpy().reshape(5, -1) @ weight.T + bias, atol=1e-5)
    assert set(roles(net).values()) == {Role.HEAD}


def test_training_long_enough_gives_the_probabilities_of_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, COLUMNS)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5, 0.0] + rng.logistic(size=200) > 0.3).astype(np.int64)
    rows = Dataset(torch.from_numpy(x), torch.from_numpy(y))
    trainer = Trainer(linear(), METHODS["local"](), TrainingConfig(lr=1.0, momentum=0.0, batch_size=200))
    silo = silo_at(trainer, data=SiloDataset(rows, rows, ("0", "1")))
    state = trainer.train(silo, trainer.initial(2), Phase(epochs=300), task_for(trainer, silo))
    found = trainer.scores(state, rows.x, silo.data).softmax(1).numpy()
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(x, y).predict_proba(x)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name]().pool])
def test_every_method_trains_it(name):
    spec = model_spec("linear", shape_for(name), 0)
    trainer = Trainer(spec, METHODS[name](), TrainingConfig(lr=0.1, momentum=0.0, batch_size=8))
    silos = silos_at(trainer)
    for silo in silos:  # without validation rows every epoch of tuning is kept
        silo.data = replace(silo.data, val=silo.data.val.take(torch.arange(0)))
    history = federate(trainer, silos, 2)
    shared = history[-1].after.shared
    assert bool(shared) == any(map(trainer.partition.leaves, trainer.partition.roles))
    for silo in silos:
        task = replace(task_for(trainer, silo), round=3, rounds=2, shared=shared)
        used = tuned_model(trainer, silo, task)
        assert not same(used, model_part(trainer.initial(3)))


@pytest.mark.parametrize("name", ["fedtl", "fedper"])
def test_a_method_that_keeps_heads_trains_each_silo_alone(name):
    results = []
    for method in (METHODS[name](), METHODS["local"]()):
        trainer = Trainer(linear(), method, TrainingConfig(lr=0.1, batch_size=8))
        silos = silos_at(trainer)
        federate(trainer, silos, 3)
        results.append([silo.local for silo in silos])
    assert all(same(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.zoo
@pytest.mark.parametrize("name", OWN_HEADS)
def test_a_private_run_that_would_share_nothing_is_refused(name, tmp_path):
    trainer = Trainer(with_private_norms(linear()), METHODS[name](), TrainingConfig())
    data = replace(data_of(1, 60), origins=DECLARED)
    ledger = LedgerLocation(tmp_path / "ledger.sqlite", "here", b"key")
    with pytest.raises(ConfigError, match="nothing would leave"):
        plan_guarantee(PrivacySettings(epsilon=5), trainer, data, 2, 0, ledger)
    averaged = replace(trainer, method=METHODS["fedavg"]())
    assert plan_guarantee(PrivacySettings(epsilon=5), averaged, data, 2, 0, ledger).epsilon <= 5


@pytest.mark.parametrize(("method", "noted"), [("fedtl", True), ("fedavg", False), ("local", False)])
def test_show_says_that_nothing_leaves(method, noted):
    sets = ["--set", "model.name=linear", "--set", f"method.name={method}", "--set", "data.limit=20"]
    done = CliRunner().invoke(app, ["show", "digits", *sets])
    assert done.exit_code == 0
    assert ("linear has only head" in " ".join(done.output.split())) == noted
