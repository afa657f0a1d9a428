"""A study whose ServerApp ended is resumed, and stopped where that does not help."""

import pytest
import torch

from fedtl._util.files import lock_folder
from fedtl.deployment.coordinator import watch
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.coordinator.watch import START_SECONDS, StudyWatch, watch_all
from fedtl.errors import ConfigError
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.server import ServerStep
from fedtl.results.run import HistoryLine


@pytest.fixture
def study(tmp_path, monkeypatch):
    config = FederationConfig("first", 0, 9, ServerStep())
    plan = StudyPlan(config, {}, "digits", deadline=5.0, tries=1, bundle="b", plan="p")
    its = HostedStudy.create(tmp_path / "studies" / "first", plan, {"w": torch.zeros(1)})
    (its.path / "runs.jsonl").write_text('{"run": 6, "at": 0}\n')
    return its


@pytest.fixture
def watched(study, monkeypatch):
    """``tick(seconds)`` returns how often the study was resumed so far."""
    now, resumed = [0.0], []
    monkeypatch.setattr(watch, "resume_study", lambda folder, study: resumed.append(study.path.name))
    its = StudyWatch(study.path.parents[1], lambda: now[0])

    def tick(seconds=0.0):
        now[0] += seconds
        its()
        return len(resumed)

    return tick


def test_a_study_without_its_serverapp_is_resumed(study, watched):
    with lock_folder(study.path):
        assert watched() == watched(10 * START_SECONDS) == 0
    assert watched(START_SECONDS - 1) == 0  # a new one may be starting
    assert watched(1) == 1
    assert watched(START_SECONDS - 1) == 1
    with lock_folder(study.path):
        assert watched(START_SECONDS) == 1


def test_it_is_stopped_where_it_ends_again_and_again_in_one_round(study, watched, caplog):
    assert [watched(), *(watched(START_SECONDS) for _ in range(2))] == [0, 1, 2]
    study.log.append(HistoryLine(1, 0.0, {}, {}, 0, 0))  # a round was finished in between
    assert [watched(START_SECONDS) for _ in range(5)] == [3, 4, 5, 5, 5]
    assert "in round 2" in (study.path / STOPPED_FILE).read_text()


@pytest.mark.parametrize("file", ["result.json", STOPPED_FILE])
def test_a_finished_or_stopped_study_is_left_alone(study, watched, file):
    assert watched() == 0
    (study.path / file).write_text("{}")
    assert watched(START_SECONDS) == 0
    (study.path / file).unlink()
    assert watched(1) == 0  # it was started again just now


def test_an_error_of_one_watch_does_not_keep_the_others_from_running(caplog):
    ran = []

    def fails():
        raise ConfigError("admitted.json cannot be read")

    watch_all([fails, lambda: ran.append(True)])
    assert ran == [True]
    assert "admitted.json" in caplog.text
