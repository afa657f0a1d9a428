"""An accuracy that leaves a private silo: what it means, what it costs, and how little one unit moves it."""

from dataclasses import replace

import pytest
import torch

from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError
from fedtl.experiment.privacy_plan import terms, warnings
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.dp_accuracy import AccuracyRelease, noisy_mean
from fedtl.privacy.noise import Noise
from tests.experiment.test_private import bench_of, data_of, silo_of, studies_of, task_of
from tests.privacy.test_units import of_patients


def test_it_is_the_mean_with_the_promised_noise():
    values = torch.tensor([1.0, 0, 1, 1])
    draws = torch.tensor([noisy_mean(values, None, AccuracyRelease(2.0, 4), Noise()) for _ in range(4000)])
    assert draws.mean() == pytest.approx(0.75, abs=5 * 0.5 / 4000**0.5)
    assert draws.std() == pytest.approx(2.0 / 4, rel=0.06)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -7.0, 9.0])
def test_no_unit_adds_more_than_one(odd):
    quiet = AccuracyRelease(1e-9, 3)
    values, units = torch.tensor([1.0, 1, 1, odd, odd]), torch.tensor([0, 1, 1, 2, 2])
    assert 2 / 3 - 1e-6 <= noisy_mean(values, units, quiet, Noise()) <= 1 + 1e-6
    many = noisy_mean(torch.ones(100), torch.tensor([0] * 98 + [1, 2]), quiet, Noise())
    assert many == pytest.approx(1, abs=1e-6)


def test_it_leaves_with_the_round_is_charged_and_comes_again_as_it_was(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, metrics=["accuracy"], rounds=3)
    its = silo.guarantee
    update = trainer.fit(silo, task_of(trainer))
    assert set(update.metrics) == {"accuracy"}
    assert its.releases.accuracy.event in studies_of(silo)["study"].events
    assert trainer.fit(silo, task_of(trainer)).metrics == update.metrics  # the stored reply
    again = silo_of(trainer, tmp_path / "again", metrics=["accuracy"], rounds=3)
    assert trainer.fit(again, task_of(trainer)).metrics != update.metrics  # noise of its own


def test_all_of_it_ends_at_the_epsilon_asked_for(tmp_path):
    trainer = bench_of()
    its = silo_of(trainer, tmp_path, metrics=["accuracy"], rounds=3, epsilon=2.0).guarantee
    events = [
        SpendEvent(its.releases.accuracy.noise_multiplier, 1.0, 3),
        SpendEvent(its.training.noise_multiplier, 16 / 60, 3 * 4),
    ]
    assert accounting.epsilon(events, its.delta) == pytest.approx(its.epsilon)
    assert 1.9 < its.epsilon <= 2.0
    without = silo_of(trainer, tmp_path, rounds=3, epsilon=2.0).guarantee
    assert its.training.noise_multiplier > without.training.noise_multiplier  # it is paid for


def test_few_validation_rows_are_warned_about(tmp_path):
    its = silo_of(bench_of(), tmp_path, metrics=["accuracy"], epsilon=1.0).guarantee
    assert terms(its).metric_expected_noise == pytest.approx(its.releases.accuracy.noise_multiplier / 9)
    assert "9 validation records are few" in " ".join(warnings(its))


def test_each_warning_is_given_beside_the_others(tmp_path):
    """The accuracy's does not hide the statistics'."""
    asked = {"epsilon": 1.0, "metrics": ["accuracy"], "statistics": "dp"}
    few, noisy = warnings(silo_of(bench_of(), tmp_path, **asked).guarantee)
    assert "validation records are few" in few
    assert "are few for the statistics of" in noisy
    for way_out in ("fewer privacy.stages", 'privacy.statistics = "public"', "GroupNorm or LayerNorm"):
        assert way_out in noisy
    assert warnings(silo_of(bench_of(), tmp_path, epsilon=1.0).guarantee) == []


def test_patients_are_counted_once(tmp_path):
    data = of_patients(data_of())
    val = Dataset(data.val.x, data.val.y, torch.arange(9) // 3)
    its = silo_of(
        bench_of(), tmp_path, replace(data, val=val), unit="patient", metrics=["accuracy"]
    ).guarantee
    assert its.releases.accuracy.units == 3


def test_without_validation_rows_there_is_nothing_to_release(tmp_path):
    data = data_of()
    nothing = replace(data, val=Dataset(data.val.x[:0], data.val.y[:0]))
    with pytest.raises(ConfigError, match="no validation rows to measure it on"):
        silo_of(bench_of(), tmp_path, nothing, metrics=["accuracy"])
