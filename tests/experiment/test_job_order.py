"""In which order a comparison does its jobs: the longest first, which changes no number."""

import pytest

from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.epochs import effort
from fedtl.experiment.jobs import Job
from fedtl.experiment.run_folder import RunFolder
from tests.experiment.runs import same, tensors
from tests.experiment.test_tuning import compare_here, experiment_on, write_rows
from tests.experiments import ROUNDS_ONLY


@pytest.fixture
def experiment(tmp_path):
    """The last method listed takes the longest: each silo trains a model of its own beside the rounds."""
    return experiment_on(
        write_rows(tmp_path / "rows"),
        tune={"train": {"lr": [0.1, 0.2]}},
        compare={"methods": ["local", "local ensemble", "fedtl"], "seeds": [0]},
    )


def numbers(folder):
    written = folder.read_json("comparison.json")
    return {key: value for key, value in written.items() if key != "seconds"}


@pytest.mark.slow
def test_the_longest_jobs_are_submitted_first_and_change_no_bit(tmp_path, monkeypatch, experiment):
    _, jobs = compare_here(monkeypatch, experiment, tmp_path / "longest")
    trials = [job for job in jobs if "trials" in job.path.parts]
    runs = jobs[len(trials) :]
    for stage in (trials, runs):
        efforts = [job.effort for job in stage]
        assert efforts == sorted(efforts, reverse=True)
        assert len(set(efforts)) > 1
    assert [job.path.name.startswith("fedtl") for job in trials] == [True, True, False, False]
    assert {job.effort for job in runs if "constant" in job.path.name} == {0}

    whole = tmp_path / "longest"
    with pytest.raises(KeyboardInterrupt):
        compare_here(monkeypatch, experiment, tmp_path / "resumed", stop_after=2)
    finished = {path.name for path in (tmp_path / "resumed" / "trials").iterdir()}
    _, rest = compare_here(monkeypatch, experiment, tmp_path / "resumed")
    assert {
        job.path.name for job in rest[len(trials) - 2 : len(trials)]
    } == finished  # what is finished comes last
    assert_same(whole, tmp_path / "resumed")

    monkeypatch.setattr(Job, "effort_left", lambda job: 0)
    _, as_listed = compare_here(monkeypatch, experiment, tmp_path / "listed")
    assert [job.path.name for job in jobs] != [job.path.name for job in as_listed]
    assert_same(whole, tmp_path / "listed")


def assert_same(one, other):
    assert numbers(RunFolder(one)) == numbers(RunFolder(other))
    assert same(tensors(one), tensors(other))


def test_effort_counts_epochs_silos_and_private_steps():
    def of(*settings, method="fedavg", privacy=None):
        experiment = load_experiment(
            "digits", [f"method.name={method}", "rounds=10", *ROUNDS_ONLY, *settings]
        )
        return effort(experiment.model_copy(update={"privacy": privacy}), 6)

    plain = of()
    assert plain == 10 * 6
    assert of("train.epochs=2") == 2 * plain
    assert of("silos_per_round=3") == plain / 2
    assert of("silos_per_round=3", method="pooled") == plain
    assert of(privacy=PrivacySettings(epsilon=3)) == 2 * plain
    assert of(privacy=PrivacySettings(epsilon=3, steps=20, sample_rate=0.2)) == 8 * plain
