"""What stages of the body do in training: rates of their own, one more in each epoch of tuning, and a pull to the start."""

from dataclasses import replace

import pytest
import torch

from fedtl.messages import Task
from fedtl.methods.base import Phase
from fedtl.methods.l2sp import StartingPoint
from fedtl.methods.losses import Proximal
from fedtl.methods.registry import METHODS
from fedtl.methods.tune import Tune
from fedtl.models.net import stage_tensors
from fedtl.training.at_home import HomeSite
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import FULL_BATCH, data_of, federate, mlp, same, silo_at, task_for

FIRST, SECOND = (
    {f"body.{name}" for name in stage if name.endswith((".weight", ".bias"))}
    for stage in stage_tensors(mlp().body)
)


def test_each_stage_has_the_rate_of_the_next_one_times_the_setting():
    """Of plain SGD with one batch; the paper divides by 2.6 from each layer to the one below it."""

    def delta(stage_lr):
        trainer = Trainer(mlp(), METHODS["fedavg"](), replace(FULL_BATCH, stage_lr=stage_lr, body_lr=0.5))
        silo = silo_at(trainer)
        return trainer.fit(silo, task_for(trainer, silo)).delta

    plain, staged = delta(1.0), delta(1 / 2.6)
    for names, factor in ((FIRST, 1 / 2.6**2), (SECOND, 1 / 2.6), ({"head.weight", "head.bias"}, 1.0)):
        assert names
        for name in names:
            assert torch.allclose(staged[name], factor * plain[name], atol=1e-7), name


class Recorder:
    """A site that keeps the phases that it is asked for."""

    lr = 0.1

    def __init__(self):
        self.phases = []

    def train(self, state, phase, lr=None, repeat=0):
        self.phases.append(phase)
        return state

    def adapted(self, state, moved):
        return state

    def losses(self, state, rows="val"):
        return torch.zeros(0)


def test_gradual_tuning_unfreezes_one_more_stage_in_each_epoch():
    site = Recorder()
    Tune(epochs=3, unfreeze="gradual")(site, {"w": torch.zeros(1)}, {})
    assert [phase.unfrozen for phase in site.phases] == [0, 1, 2]
    trainer = Trainer(mlp(), METHODS["fedtl"](), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    before, task = trainer.initial(silo.data.width), Task("t", 2, 1, 0, {})
    for unfrozen, moves in ((0, set()), (1, SECOND), (2, FIRST | SECOND), (None, FIRST | SECOND)):
        after = trainer.train(silo, before, Phase(unfrozen=unfrozen), task)
        moved = {name for name in FIRST | SECOND if not torch.equal(before[name], after[name])}
        assert moved == moves, unfrozen
        assert not torch.equal(before["head.weight"], after["head.weight"])


def bodies_after(term, rounds=2):
    """Return the shared body weights after 0, 1, ... rounds."""
    trainer = Trainer(mlp(), METHODS["fedtl"]().plus(term), TrainingConfig(batch_size=8))
    silos = [silo_at(trainer, name, data_of(seed, 20)) for seed, name in enumerate("ab")]
    ends = federate(trainer, silos, rounds)
    start = trainer.partition.split(trainer.initial(3))[0]
    return [{name: state[name] for name in FIRST} for state in (start, *(end.after.shared for end in ends))]


def test_an_endless_pull_keeps_the_body_at_the_start_in_all_rounds():
    first, *others = bodies_after(StartingPoint(float("inf"), 0.0))
    assert all(same(first, other) for other in others)


def test_it_pulls_to_the_start_where_proximal_pulls_to_what_was_received():
    distance = {}
    for term in (StartingPoint(3.0, 0.0), Proximal(3.0)):
        first, *_, last = bodies_after(term, 6)
        distance[type(term)] = float(sum((last[name] - first[name]).norm() for name in first))
    assert 0 < distance[StartingPoint] < 0.7 * distance[Proximal]


@pytest.mark.parametrize("term", [StartingPoint(float("inf"), 0.0), Proximal(float("inf"))])
def test_in_tuning_the_start_is_the_model_that_the_last_round_left(term):
    trainer = Trainer(mlp(), METHODS["fedtl"]().plus(term), TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    left = {name: tensor + 0.5 for name, tensor in trainer.initial(silo.data.width).items()}
    task = Task("t", 2, 1, 0, trainer.partition.split(left)[0])
    site = HomeSite(trainer, silo, task, left, 1)
    once = site.train(left, Phase(epochs=1), 0.1)
    again = site.train(once, Phase(epochs=1), 0.1, 1)
    stays = all(torch.equal(again[name], left[name]) for name in FIRST | SECOND)
    assert stays == isinstance(term, StartingPoint)  # terms about what a round received end with the rounds
