"""Private settings that are refused, warned about or listed before anything runs."""

import pytest

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment, parse_settings, read_experiment
from fedtl.experiment.config.privacy_checks import doubtful, unsound
from fedtl.experiment.privacy_report import privacy_warnings
from tests.experiment.private_silos import SMALL, bench_of, silo_of


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["method.name=local"], "method 'local'"),
        (["method.name=pooled"], "method 'pooled'"),
        (["method.name=coral", "data.target_domain=faint"], "loss Coral"),
        (["method.name=dann", "data.target_domain=faint"], "method 'dann'"),
        (["method.terms=[{name='mmd'}]", "data.target_domain=faint"], "MaximumMeanDiscrepancy"),
        (["model.dtype=bf16"], "model.dtype"),
        (["engine.stack=4"], "engine.stack = 4"),
        (["silo.faint.privacy.epsilon=-1"], "silo.faint.privacy"),
        (["silo.faint.privacy.epsilom=1"], "did you mean"),
        (["privacy.epsilon=0"], "privacy.epsilon"),
        (["privacy.unit=patient"], "privacy.unit"),
        (["privacy.unit=patien", "data.source=table", "data.unit_column=patient"], "the same column"),
    ],
)
def test_what_goes_past_the_noise_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load_experiment("digits", [*SMALL, *settings])
    assert "\n" not in str(caught.value)


def test_overrides_without_privacy_are_refused():
    with pytest.raises(ConfigError, match=r"silo\.faint"):
        load_experiment("digits", ["silo.faint.privacy.epsilon=1"])


def test_a_delta_that_allows_to_publish_a_record_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"above 1/n"):
        silo_of(bench_of(), tmp_path, delta=0.1)


def test_few_rows_for_many_statistics_are_warned_about(tmp_path):
    trainer = bench_of()
    (text,) = privacy_warnings([silo_of(trainer, tmp_path, statistics="dp", epsilon=1.0).guarantee])
    assert "privacy.stages" in text
    first = silo_of(trainer, tmp_path, statistics="dp", epsilon=1.0, stages=[1]).guarantee
    every = silo_of(trainer, tmp_path, statistics="dp", epsilon=1.0).guarantee
    assert len(first.releases.statistics.layers) == 1 < len(every.releases.statistics.layers)
    assert first.releases.statistics.mean_noise_std < every.releases.statistics.mean_noise_std


def test_lint_lists_everything_at_once():
    wrong = [
        "method.name=coral",
        "data.target_domain=faint",
        "model.dtype=bf16",
        "privacy.noise=reproducible",
    ]
    experiment = parse_settings(read_experiment("digits", [*SMALL, *wrong]))
    assert len(list(unsound(experiment))) == 2
    asked = " ".join(doubtful(experiment))
    assert "nothing is private" in asked
    assert 'tuning = "undeclared"' in asked
    assert "their epsilons add" in asked
    assert not list(unsound(load_experiment("digits", SMALL)))
    assert not any(" taken from the private rows" in line for line in doubtful(experiment))


def test_values_that_are_declared_public_are_listed_as_such():
    settings = [*SMALL, "data.public=['faint']", "data.classes=['0', '1']"]
    warnings = doubtful(load_experiment("digits", settings))
    (line,) = (one for one in warnings if "taken from the private rows" in one)
    assert line.startswith("data.classes, data.public: ")


@pytest.mark.parametrize("at", ["privacy", "silo.faint.privacy"])
def test_a_tuning_that_was_never_charged_is_refused_in_one_line(at):
    with pytest.raises(ConfigError) as refused:
        load_experiment("digits", [*SMALL, f"{at}.tuning=charged"])
    said = str(refused.value)
    assert said.startswith(f"{at}.tuning = 'charged' ")
    assert '"undeclared"' in said
    assert "\n" not in said
