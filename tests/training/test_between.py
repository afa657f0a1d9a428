"""A silo's model between the shared and another one: exact statistics at each point, and what the result says."""

import json
from dataclasses import replace

import pytest
import torch

from fedtl._util.records import from_plain, to_plain
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.epochs import epochs_at_silo
from fedtl.messages import Task
from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import Choose
from fedtl.methods.interpolation import Interpolation, between
from fedtl.methods.sharing import fedtl
from fedtl.methods.tune import Tune
from fedtl.report.run_page import run_page
from fedtl.results.run import Interpolated, SiloResult
from fedtl.training.at_home import finish, tuned_model
from fedtl.training.between import tensor_groups
from fedtl.training.loop import TrainingConfig
from fedtl.training.metrics import row_losses
from fedtl.training.trainer import Trainer
from tests.results.test_files import LINE, MEASURED, RESULT
from tests.training.silos import data_of, mlp, same, silo_at

CHOOSE = Choose((Candidate.INTERPOLATED,))


@pytest.fixture(scope="module")
def home():
    method = replace(fedtl(), tune=Tune(epochs=2), choose=CHOOSE)
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silo = silo_at(trainer, data=data_of(1, 24, target=False))
    shared, _ = trainer.partition.split(trainer.initial(3))
    return trainer, silo, Task("t", 2, 1, 0, {name: tensor + 0.02 for name, tensor in shared.items()})


def test_its_curve_is_the_loss_of_each_mean_with_statistics_of_its_own(home):
    trainer, silo, task = home
    final = finish(trainer, silo, task)
    assert final.main.name is Candidate.INTERPOLATED
    first = trainer.adapt(trainer.partition.join(task.shared, silo.local), silo.data.inputs, 3)
    last, curve = tuned_model(trainer, silo, task), final.interpolated
    for number in (0, 4, 10):
        share = number / 10
        mean = {
            name: (1 - share) * first[name] + share * tensor if tensor.is_floating_point() else tensor
            for name, tensor in last.items()
        }
        mean = trainer.adapt(mean, silo.data.inputs, 3)
        losses = row_losses(trainer.scores(mean, silo.data.val.x, silo.data), silo.data.val.y, silo.data.task)
        assert curve.curve[number] == pytest.approx(float(losses.mean()), rel=1e-5)
    chosen = between(first, last, [frozenset(last)], [curve.shares["whole"]])
    assert same(final.main.state, trainer.adapt(chosen, silo.data.inputs, 3))
    assert min(curve.curve) == curve.curve[round(10 * curve.shares["whole"])]


def test_by_stage_every_tensor_is_in_one_group(home):
    trainer, silo, task = home
    state = trainer.initial(3)
    groups = tensor_groups(trainer, state, True)
    assert list(groups) == ["stage 1", "stage 2", "head"]
    assert sorted(name for group in groups.values() for name in group) == sorted(state)
    choose = Choose((Candidate.INTERPOLATED,), Interpolation(by_stage=True))
    final = finish(replace(trainer, method=replace(trainer.method, choose=choose)), silo, task)
    assert final.interpolated.shares.keys() == groups.keys()


def test_between_the_shared_and_the_own_model_the_own_one_is_trained_once(home):
    trainer, silo, task = home
    asked = []

    def own(*_):
        asked.append(1)
        return {name: tensor.clone() for name, tensor in trainer.initial(3).items()}

    ends = Interpolation((Candidate.SHARED, Candidate.OWN))
    choose = Choose((Candidate.OWN, Candidate.INTERPOLATED), ends)
    final = finish(replace(trainer, method=replace(trainer.method, choose=choose)), silo, task, own)
    assert (len(asked), final.interpolated.ends) == (1, ("shared", "own"))
    one = Choose(
        (Candidate.TUNED, Candidate.INTERPOLATED), Interpolation((Candidate.PERSONAL, Candidate.OWN))
    )
    final = finish(replace(trainer, method=replace(trainer.method, choose=one)), silo, task, own)
    assert final.interpolated is None  # the method keeps no personal model
    assert [member.name for member in final.members] == [Candidate.TUNED]


SETTINGS = ['method.choose.candidates=["interpolated"]', 'method.choose.ends=["shared", "own"]']


def test_settings():
    assert epochs_at_silo(load_experiment("digits", SETTINGS)) > epochs_at_silo(
        load_experiment("digits", SETTINGS[:1])
    )
    with pytest.raises(ConfigError, match="two different"):
        load_experiment("digits", [SETTINGS[0], 'method.choose.ends=["interpolated", "own"]'])
    with pytest.raises(ConfigError, match="method.choose.ends"):
        load_experiment("digits", [*SETTINGS, "privacy.epsilon=5"])


def test_the_page_of_a_run_plots_the_curves():
    curve = Interpolated(("shared", "own"), (0.5, 0.25, 1.0), {"whole": 0.5})
    silo = SiloResult(3, 2, 1, MEASURED, interpolated=curve)
    assert from_plain(SiloResult, json.loads(json.dumps(to_plain(silo)))).interpolated == curve
    page = run_page(replace(RESULT, silos={"here": silo}, privacy=None), [LINE], "")
    assert "share of the own model" in page


def test_it_is_never_a_model_that_is_not_finite(home):
    trainer, silo, task = home
    broken = {name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor for name, tensor in trainer.initial(3).items()}  # fmt: skip
    ends = Interpolation((Candidate.OWN, Candidate.SHARED))
    choose = Choose((Candidate.INTERPOLATED,), ends)
    final = finish(
        replace(trainer, method=replace(trainer.method, choose=choose)), silo, task, lambda *_: broken
    )
    assert final.interpolated.shares == {"whole": 1.0}
