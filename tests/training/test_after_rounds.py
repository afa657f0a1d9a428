"""What a trainer makes of a silo's model after the last round."""

from dataclasses import replace

import pytest
import torch

from fedtl.methods.base import HEAD, Phase
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import model_part
from fedtl.methods.tune import Tune
from fedtl.models.norms import adabn_statistics
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import METHOD_NAMES, by_role, mlp, moved, same, silo_at, spec_for, task_for


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_finishing_changes_nothing_in_the_silo(name):
    trainer = Trainer(spec_for(name), METHODS[name](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before, shared = copy_state(silo.local), copy_state(task.shared)
    settled = tuned_model(trainer, silo, task)
    assert same(silo.local, before)
    assert same(task.shared, shared)
    assert same(settled, tuned_model(trainer, silo, task))
    roles = by_role(trainer, Role.STATS) if trainer.method.fits_received_statistics else set()
    if any(step.trained for step in trainer.method.finish if step.at != "unlabelled"):
        roles = roles | by_role(trainer, Role.HEAD)
    assert moved(model_part(shared | before), settled) == roles


def test_fedtl_ends_with_the_statistics_of_the_silos_own_inputs():
    trainer = Trainer(mlp(), METHODS["fedtl"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    settled = tuned_model(trainer, silo, task)
    net = mlp().net(3)
    net.load_state_dict(task.shared | silo.local)
    for name, value in adabn_statistics(net.body, [silo.data.train.x]).items():
        assert torch.allclose(settled[f"body.{name}"], value, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "stays"), [("head", {Role.BODY, Role.NORM, Role.STATS, Role.COUNT}), ("all", set())]
)
def test_personalising_changes_only_the_declared_roles(what, stays):
    method = replace(METHODS["fedavg"](), finish=(Tune(what, 2),))
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    silo.data = replace(silo.data, val=silo.data.val.take(torch.arange(0)))  # so that every epoch is kept
    task = task_for(trainer, silo)
    settled = tuned_model(trainer, silo, task)
    assert moved(task.shared | silo.local, settled) == by_role(trainer, *(set(Role) - stays))


def test_another_phase_starts_from_any_state_and_changes_nothing_in_the_silo():
    trainer = Trainer(mlp(), METHODS["fedavg"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    before, state = copy_state(silo.local), {name: value * 1 for name, value in trainer.initial(3).items()}
    trained = trainer.train(silo, state, Phase(HEAD, 2), task_for(trainer, silo))
    assert moved(state, trained) == {"head.weight", "head.bias"}
    assert same(silo.local, before)
