"""The progress that a private phase passes to its loss terms, and what is verified before the phase."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from fedtl.errors import ConfigError, SiloFailed
from fedtl.methods.losses import PerExample, TaskLoss
from fedtl.methods.registry import METHODS
from fedtl.methods.slot import Slot
from fedtl.methods.slots import zeros
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.state import copy_state
from fedtl.training.loop import TrainingConfig
from tests.experiment.private_silos import bench_of, data_of, silo_of, task_of

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
    other = replace(trainer, spec=with_private_norms(model_spec("mlp", (1, 8, 8), 0)))
    other.fit(silo_of(other, tmp_path / "other"), task_of(other))
    assert len(trainer.cache.gradient_methods) == 3  # another model
    rounded = replace(trainer, dtype="bf16")
    with pytest.raises(
        ConfigError, match="per-example gradients"
    ):  # other arithmetic, in which they are not exact
        rounded.fit_unaccounted(silo_of(rounded, tmp_path / "rounded"), task_of(rounded))


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


@dataclass(frozen=True)
class Near(PerExample):
    """Scores stay near those of another set."""

    to: str

    def losses(self, out):
        return (out.scores - out.by(self.to).scores).pow(2).mean(1)


@pytest.mark.parametrize("to", ["shared", "zeros", "nothing"])
def test_a_loss_by_a_set_that_is_no_whole_model_is_refused_before_it_is_charged(to, tmp_path):
    method = replace(
        METHODS["fedper"](), objective=(TaskLoss(), Near(to)), slots=(Slot("zeros", zeros),)
    )  # the rest would be those of the model that was evaluated last: of another silo, or after exact statistics
    trainer = bench_of(method, TrainingConfig(batch_size=16))
    silo = silo_of(trainer, tmp_path)
    with pytest.raises(ConfigError, match=f"set '{to}'"):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()


class Late(nn.Module):
    """Keeps a mean of its inputs in batches of more than twelve, which the trial on synthetic rows does not have."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        if self.training and len(x) > 12:
            self.mean.copy_(x.detach().mean())
        return x


def test_a_round_in_which_a_buffer_moves_without_noise_gives_no_update(tmp_path):
    trainer = bench_of()
    body = nn.Sequential(Late(), trainer.spec.body)
    trainer = replace(trainer, spec=replace(trainer.spec, body=body))
    silo = silo_of(trainer, tmp_path, data_of(n=120))
    with pytest.raises(SiloFailed, match="no update"):
        trainer.fit(silo, task_of(trainer))
    assert set(silo.labels.values()) == {"public"}


@dataclass(frozen=True)
class Rolled(PerExample):
    """Each example meets the one eight places further, which in a batch of eight is itself."""

    def losses(self, out):
        return out.of(out.batch.x.roll(8, 0)).scores.sum(1)


def test_examples_that_meet_in_batches_of_another_size_are_refused(tmp_path):
    trainer = trainer_with(Rolled())
    with pytest.raises(ConfigError, match="size of its batch"):
        trainer.fit(silo_of(trainer, tmp_path), task_of(trainer))


@dataclass(frozen=True)
class Wide(PerExample):
    """One value an example, in a shape that would be broadcast to one for each pair of examples."""

    def losses(self, out):
        return out.scores.sum(1, keepdim=True)


@pytest.mark.parametrize("objective", [(), (Wide(),), (TaskLoss(), Wide())])
def test_losses_that_are_not_one_value_an_example_are_refused_before_they_are_charged(objective, tmp_path):
    trainer = bench_of(replace(METHODS["fedavg"](), objective=objective), TrainingConfig(batch_size=16))
    silo = silo_of(trainer, tmp_path)
    with pytest.raises(ConfigError, match="one value an example"):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()


def test_dropout_of_a_round_can_be_drawn_by_nobody_again(tmp_path):
    """From the seed and the silo's secret, which a simulation publishes and all studies of a site share, a missing record moved 10 clips."""
    trainer, seeds = trainer_with(Watched()), []
    silo = silo_of(trainer, tmp_path, steps=1)
    for seed in (None, None, 5, 5):
        silo.guarantee = replace(silo.guarantee, seed=seed)
        trainer.fit_unaccounted(silo, task_of(trainer))
        seeds.append(torch.default_generator.initial_seed())
    assert len(set(seeds)) == 3
    assert seeds[2] == seeds[3]
