"""The accuracy that a private silo releases: what it is, what it costs, and how much one unit changes it."""

from dataclasses import replace

import pytest
import torch

from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError
from fedtl.experiment.privacy_report import privacy_warnings, silo_privacy
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.dp_accuracy import AccuracyRelease, noisy_mean
from fedtl.privacy.noise import Noise
from tests.experiment.private_silos import bench_of, data_of, silo_of, studies_of, task_of
from tests.privacy.patients import of_patients


def test_noisy_mean_has_the_noise_of_the_release():
    values = torch.tensor([1.0, 0, 1, 1])
    draws = torch.tensor([noisy_mean(values, None, AccuracyRelease(2.0, 4), Noise()) for _ in range(4000)])
    assert draws.mean() == pytest.approx(0.75, abs=5 * 0.5 / 4000**0.5)
    assert draws.std() == pytest.approx(2.0 / 4, rel=0.06)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -7.0, 9.0])
def test_one_unit_adds_at_most_one(odd):
    quiet = AccuracyRelease(1e-9, 3)
    values, units = torch.tensor([1.0, 1, 1, odd, odd]), torch.tensor([0, 1, 1, 2, 2])
    assert 2 / 3 - 1e-6 <= noisy_mean(values, units, quiet, Noise()) <= 1 + 1e-6
    many = noisy_mean(torch.ones(100), torch.tensor([0] * 98 + [1, 2]), quiet, Noise())
    assert many == pytest.approx(1, abs=1e-6)


def test_accuracy_is_released_charged_and_replayed_with_the_round(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, metrics=["accuracy"], rounds=3)
    its = silo.guarantee
    update = trainer.fit(silo, task_of(trainer))
    assert set(update.metrics) == {"accuracy"}
    assert its.releases.accuracy.event in studies_of(silo)["study"].events
    assert trainer.fit(silo, task_of(trainer)).metrics == update.metrics  # the stored reply
    again = silo_of(trainer, tmp_path / "again", metrics=["accuracy"], rounds=3)
    assert trainer.fit(again, task_of(trainer)).metrics != update.metrics  # noise of its own


def test_accuracy_and_training_together_cost_the_target_epsilon(tmp_path):
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


def test_few_validation_rows_give_a_warning(tmp_path):
    its = silo_of(bench_of(), tmp_path, metrics=["accuracy"], epsilon=1.0).guarantee
    assert silo_privacy(its).metric_expected_noise == pytest.approx(
        its.releases.accuracy.noise_multiplier / 9
    )
    assert "9 validation records" in " ".join(privacy_warnings([its]))


def test_all_warnings_are_given(tmp_path):
    """The warning about the accuracy does not hide the one about the statistics."""
    asked = {"epsilon": 1.0, "metrics": ["accuracy"], "statistics": "dp"}
    few, noisy = privacy_warnings([silo_of(bench_of(), tmp_path, **asked).guarantee])
    assert "privacy.metrics" in few
    assert "60 records" in noisy
    for way_out in ("privacy.stages", 'privacy.statistics = "public"', "GroupNorm or LayerNorm"):
        assert way_out in noisy
    assert privacy_warnings([silo_of(bench_of(), tmp_path, epsilon=1.0).guarantee]) == []


def test_silos_share_one_warning(tmp_path):
    """It names every silo where the noise is large, and the range of the numbers."""
    asked = {"epsilon": 1.0, "metrics": ["accuracy"]}
    one = silo_of(bench_of(), tmp_path / "one", **asked).guarantee
    few = replace(one.releases, accuracy=replace(one.releases.accuracy, units=5))
    other = replace(one, account=replace(one.account, dataset="other"), releases=few)
    quiet = replace(silo_of(bench_of(), tmp_path / "quiet", epsilon=1.0).guarantee)
    (text,) = privacy_warnings([other, quiet, one])
    assert text.startswith(f"{one.account.dataset}, other: ")
    assert "only 5 to 9 validation records" in text
    noise = one.releases.accuracy.noise_multiplier
    assert f"{noise / 9:.2f} to {noise / 5:.2f}" in text


def test_patients_count_once(tmp_path):
    data = of_patients(data_of())
    val = Dataset(data.val.x, data.val.y, torch.arange(9) // 3)
    its = silo_of(
        bench_of(), tmp_path, replace(data, val=val), unit="patient", metrics=["accuracy"]
    ).guarantee
    assert its.releases.accuracy.units == 3


def test_accuracy_without_validation_rows_is_refused(tmp_path):
    data = data_of()
    nothing = replace(data, val=Dataset(data.val.x[:0], data.val.y[:0]))
    with pytest.raises(ConfigError, match="no validation rows"):
        silo_of(bench_of(), tmp_path, nothing, metrics=["accuracy"])
