"""The progress that a private phase passes to its loss terms, and what is verified before the phase."""

from dataclasses import dataclass, replace

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.methods.losses import PerExample, TaskLoss
from fedtl.methods.registry import METHODS
from fedtl.models.state import copy_state
from fedtl.training.loop import TrainingConfig
from tests.experiment.test_private import bench_of, data_of, silo_of, task_of

SEEN = []


@dataclass(frozen=True)
class Watched(PerExample):
    """Records the progress with which it is called."""

    def losses(self, out):
        SEEN.append(out.progress)
        return 0 * out.scores.sum(1)


@dataclass(frozen=True)
class Scheduled(PerExample):
    """A loss that grows with the progress p: p times the mean of the scores."""

    def losses(self, out):
        return 50 * out.progress * out.scores.mean(1)


@dataclass(frozen=True)
class MeetsLater(PerExample):
    """Examples are independent at progress 0, and depend on each other afterwards."""

    def losses(self, out):
        return out.scores.sum(1) + out.progress * out.scores.sum()


def trainer_with(term):
    return bench_of(replace(METHODS["fedavg"](), objective=(TaskLoss(), term)), TrainingConfig(batch_size=16))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_private_steps_see_the_progress_of_the_experiment(tmp_path, number):
    trainer = trainer_with(Watched())
    silo = silo_of(trainer, tmp_path)
    trainer.fit_unaccounted(silo, task_of(trainer))  # the model is verified here
    SEEN.clear()
    trainer.fit_unaccounted(silo, task_of(trainer, number))
    (steps,) = silo.guarantee.training.steps
    assert steps > 1
    wanted = [(number - 1 + step / steps) / 3 for step in range(steps)]
    assert list(dict.fromkeys(SEEN)) == pytest.approx(wanted)


def test_a_scheduled_loss_acts_in_private_training(tmp_path):
    deltas = []
    for term in (Scheduled(), Watched()):
        trainer = trainer_with(term)
        silo = silo_of(trainer, tmp_path / type(term).__name__, noise="reproducible")
        deltas.append(trainer.fit_unaccounted(silo, task_of(trainer, 3)).delta["head.bias"])
    assert not torch.allclose(*deltas, atol=1e-3)


def test_a_term_whose_examples_become_dependent_later_is_refused_before_it_is_charged(tmp_path):
    trainer = trainer_with(MeetsLater())
    silo = silo_of(trainer, tmp_path)
    with pytest.raises(ConfigError, match="depends on other records"):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()


def test_trainers_made_from_one_share_its_nets_and_what_was_verified(tmp_path):
    trainer = bench_of()
    trainer.fit(silo_of(trainer, tmp_path), task_of(trainer))
    slower = replace(trainer, training=replace(trainer.training, lr=1e-3))
    assert slower.net(3) is trainer.net(3)
    assert len(trainer.cache.gradient_methods) == 1
    slower.fit(silo_of(slower, tmp_path / "slower"), task_of(slower))
    assert len(trainer.cache.gradient_methods) == 1
    frozen = replace(trainer, training=replace(trainer.training, freeze=1))
    frozen.fit(silo_of(frozen, tmp_path / "frozen"), task_of(frozen))
    assert len(trainer.cache.gradient_methods) == 2  # other parameters move, so it is verified again


def test_evaluation_does_not_disturb_a_net_that_is_trained():
    trainer, data = bench_of(), data_of()
    net = trainer.net(3)
    net.train()
    before = copy_state(net.state_dict())
    other = {name: tensor + 1 for name, tensor in trainer.initial(3).items()}
    trainer.scores(other, data.val.x, data)
    trainer.adapt(other, data.train.x, 3)
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
