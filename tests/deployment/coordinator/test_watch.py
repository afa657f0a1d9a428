"""A study whose ServerApp ended is resumed, and stopped where that does not help; what happens is logged."""

import logging

import pytest
import torch

from fedtl._util.clock import ClockJumps
from fedtl._util.files import lock_folder
from fedtl.deployment.coordinator import watch
from fedtl.deployment.coordinator.admitted import AdmittedSite, write_admitted
from fedtl.deployment.coordinator.figures import server_metrics
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.studies import START_SECONDS
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.coordinator.superlink import FlowerNode, SuperLink
from fedtl.deployment.coordinator.watch import CleanUpWatch, ClockWatch, EventWatch, StudyWatch
from fedtl.deployment.site.keys import create_node_key, public_key_pem, read_public_key
from fedtl.deployment.supervise import Watches
from fedtl.errors import ConfigError
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.server import ServerStep
from fedtl.results.run import HistoryLine
from tests.real_processes import Federation


def one_study(path, rounds=3):
    config = FederationConfig(path.name, 0, rounds, ServerStep())
    plan = StudyPlan(config, {}, "digits", deadline=5.0, tries=1, bundle="b", plan="p")
    return HostedStudy.create(path, plan, {"w": torch.zeros(1)})


@pytest.fixture
def study(tmp_path):
    its = one_study(tmp_path / "studies" / "first", 9)
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

    Watches([fails, lambda: ran.append(True)])()
    assert ran == [True]
    assert "admitted.json" in caplog.text


def test_a_watch_that_goes_on_failing_is_logged_once_and_again_when_its_text_changes(caplog):
    """Otherwise one damaged file fills the log, which is rotated, within days."""
    said = ["a", "a", "a", "b", "b", "", "b"]

    def fails():
        if text := said.pop(0):
            raise ConfigError(text)

    def also_fails():
        raise OSError("c")

    watches = Watches([fails, also_fails])
    while said:
        watches()
    assert caplog.messages == [f"function: {text}" for text in ("a", "c", "b", "b")]


def test_what_happens_from_now_on_is_logged_and_a_stopped_study_starts_the_command(tmp_path, caplog):
    """What stopped before the start does not start it again."""
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    out = tmp_path / "told"
    words = ["sh", "-c", f'echo "$FEDTL_STUDY $FEDTL_REASON" >> {out}']
    Federation.change(tmp_path / "srv" / "server.toml", on_stopped=words)
    old, new = (one_study(tmp_path / "srv" / "studies" / name) for name in ("old", "new"))
    (old.path / STOPPED_FILE).write_text("before\n")
    watch = EventWatch(tmp_path / "srv")
    caplog.set_level(logging.INFO, "fedtl")
    new.log.append(HistoryLine(1, 2.0, {"a": {}}, {"b": "b: is not connected"}, 10, 20))
    (new.path / STOPPED_FILE).write_text("too few\n")
    watch()
    watch._hooks[0].wait(10)
    watch()
    assert out.read_text() == "new too few\n"
    assert watch._hooks == []
    fields = [record.fields for record in caplog.records]
    assert [one["event"] for one in fields] == ["round", "left out", "stopped"]
    assert fields[0] == {
        **{"study": "new", "event": "round", "round": 1, "sites": 1},
        **{"seconds": 2.0, "bytes_up": 10, "bytes_down": 20},
    }


def test_a_clock_that_is_set_is_said_once(caplog):
    now = {"wall": 1.8e9, "steady": 0.0}
    tick = ClockWatch(lambda: ClockJumps(lambda: now["wall"], lambda: now["steady"]))
    tick()
    assert not caplog.messages
    now["wall"] += 3600
    tick()
    tick()
    (said,) = caplog.messages
    assert "clock was set forward by 3600 s" in said
    assert "NTP" in said


def test_the_coordinators_figures(tmp_path, monkeypatch):
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    study = one_study(tmp_path / "srv" / "studies" / "first")
    for number in (1, 2):
        study.log.append(HistoryLine(number, 2.5, {"a": {}, "b": {}}, {"c": "c: away"}, 10, 20))
    keys = {}
    for name in ("a", "c"):
        create_node_key(tmp_path / name, name)
        keys[name] = read_public_key(tmp_path / f"{name}.pub")
    write_admitted(tmp_path / "srv", {name: AdmittedSite(key, 7) for name, key in keys.items()})
    nodes = {
        public_key_pem(keys["a"]): FlowerNode(7, False, True),
        public_key_pem(keys["c"]): FlowerNode(8, False),
    }
    monkeypatch.setattr(SuperLink, "nodes", lambda link: nodes)
    found = {
        (metric.name, *one.labels.values()): one.value
        for metric in server_metrics(tmp_path / "srv")
        for one in metric.values
    }
    assert (found["site_connected", "a"], found["site_connected", "c"]) == (1, 0)
    assert (found["study_round", "first"], found["study_rounds", "first"]) == (2, 3)
    assert (found["round_seconds", "first"], found["round_sites", "first"]) == (2.5, 2)
    assert (found["received_bytes_total", "first"], found["sent_bytes_total", "first"]) == (20, 40)
    states = {name[2]: value for name, value in found.items() if name[0] == "study_state"}
    assert states == {"running": 0, "waiting": 1, "done": 0, "stopped": 0}
    assert 364 < found["certificate_days", "server"] < 366
    assert found["superlink_up",] == 0


def test_what_ended_runs_have_left_is_removed_at_the_start_and_every_hour(tmp_path, monkeypatch):
    times, cleaned = [], []
    monkeypatch.setattr(SuperLink, "clean_up", lambda link: cleaned.append(times[-1]))
    watch = CleanUpWatch(tmp_path, lambda: times[-1])
    for now in range(0, 4 * 3600, 600):
        times.append(now)
        watch()
    assert cleaned == [0, 3600, 7200, 10800]
