"""A study that is started while another one runs waits, and starts when that one has ended."""

import json
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from fedtl._util.files import lock_folder, write_json
from fedtl.cli.main import app
from fedtl.deployment.coordinator import studies
from fedtl.deployment.coordinator.asking import asked_until, begin_asking, rest, rests_until
from fedtl.deployment.coordinator.figures import server_metrics
from fedtl.deployment.coordinator.follow import StudyFollower, study_end
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.status import server_status
from fedtl.deployment.coordinator.studies import (
    resume_studies,
    resume_study,
    start_study,
    stop_study,
    studies_to_resume,
)
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy
from fedtl.deployment.coordinator.study_files import NOT_YET, BundleInfo, StudyResult
from fedtl.deployment.coordinator.superlink import NoAnswer, SuperLink
from fedtl.deployment.coordinator.unended import unended_studies
from fedtl.deployment.coordinator.watch import (
    MOST_RESUMES,
    MOST_WAITS,
    AskWatch,
    DamageWatch,
    EventWatch,
    QueueWatch,
    StudyWatch,
)
from fedtl.deployment.supervise import Watches
from fedtl.errors import ConfigError
from fedtl.federation.round_log import RoundLog
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.server import ServerStep
from fedtl.results.run import HistoryLine


@pytest.fixture
def server(tmp_path, monkeypatch):
    """
    A coordinator with bundle "b" and a SuperLink that counts: ``begun`` are the studies for which Flower runs were started. Each entry of
    ``silent`` is a start that it does not answer, with the runs that it starts all the same. ``end`` ends a study as its ServerApp would.
    """
    folder = tmp_path / "srv"
    create_server(folder, "localhost", "127.0.0.1:1", 1)
    bundle = folder / "bundles" / "b"
    bundle.mkdir(parents=True)
    (bundle / "b.fab").write_bytes(b"bundle")
    save_file({"w": torch.zeros(1)}, bundle / "start.safetensors")
    info = BundleInfo(FederationConfig("", 0, 3, ServerStep()), {}, studies.Bundle(bundle).hash, "p", False)
    write_json(bundle / "server.json", info.to_json())
    begun, stopped, silent, lost = [], [], [], []

    def start_run(link, content, config):
        if silent:
            lost.extend(silent.pop())
            raise NoAnswer("the SuperLink did not answer")
        begun.append(config["study"])
        return len(begun)

    monkeypatch.setattr(SuperLink, "healthy", True)
    monkeypatch.setattr(SuperLink, "start_run", start_run)
    monkeypatch.setattr(SuperLink, "stop_run", lambda link, run: stopped.append(run))
    monkeypatch.setattr(SuperLink, "unfinished_runs", lambda link, study: lost)
    monkeypatch.setattr(studies, "register_sites", lambda folder: None)
    watch = QueueWatch(folder)

    def end(study, reasons=None, days=1.0):
        """``reasons``: why sites have not said whether joining helped; they are asked for so many days."""
        result = replace(StudyResult.of(study.path.name, []), silos={"a": 1}, without_verdict=reasons or {})
        if reasons:
            begin_asking(study, studies.time.time() + days * 86400)
        write_json(study.path / "result.json", result)

    return SimpleNamespace(
        folder=folder,
        begun=begun,
        stopped=stopped,
        silent=silent,
        start=lambda name, **words: start_study(folder, "b", name, **words),
        end=lambda name, **more: end(HostedStudy(folder / "studies" / name), **more),
        watch=lambda: (watch(), list(begun))[1],
    )


def test_studies_start_one_after_the_other_in_the_order_of_their_start(server):
    assert server.watch() == []
    assert server.start("z").queued_since is None
    for name in ("y", "x", "y"):  # once more, which changes nothing
        assert server.start(name).queued_since is not None
    assert server.watch() == ["z"]
    assert [study.path.name for study in studies_to_resume(server.folder)] == ["z"]
    status = server_status(server.folder).studies
    assert {name: one.queued for name, one in status.items()} == {"x": True, "y": True, "z": False}
    server.end("z")
    assert server.watch() == server.watch() == ["z", "y"]
    (server.folder / "studies" / "y" / STOPPED_FILE).write_text("too few\n")
    assert server.watch() == ["z", "y", "x"]
    assert not server_status(server.folder).studies["x"].queued


def test_a_study_that_is_stopped_in_the_queue_is_not_started_and_can_be_queued_again(server):
    first = server.start("first")
    server.start("second")
    stop_study(server.folder, "second")
    assert server.stopped == []
    second = HostedStudy(server.folder / "studies" / "second")
    assert study_end("second", second).text == "by the coordinator"
    server.start("second")
    assert study_end("second", second) is None
    server.end(first.path.name)
    assert server.watch() == ["first", "second"]


def test_a_study_may_be_started_beside_another_one(server):
    server.start("first")
    server.start("second", now=True)
    assert server.begun == ["first", "second"]
    server.start("third")
    server.start("third", now=True)
    assert server.begun[2:] == ["third"]
    server.end("first")
    server.end("second")
    server.end("third")
    assert server.watch() == ["first", "second", "third"]


def test_a_queued_study_whose_bundle_was_built_again_is_stopped_and_the_next_one_starts(server):
    server.start("first")
    server.start("second")
    server.start("third")
    path = server.folder / "studies" / "second" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bundle": "other"}))
    server.end("first")
    assert server.watch() == ["first"]
    assert "was built again" in server_status(server.folder).studies["second"].stopped
    assert server.watch() == ["first", "third"]


def test_a_study_that_runs_is_not_queued_twice(server, monkeypatch):
    server.start("first")
    monkeypatch.setattr(studies, "is_at_work", lambda study: True)
    with pytest.raises(ConfigError, match="is running"):
        server.start("first")


def test_a_study_whose_serverapp_may_not_have_begun_yet_is_refused(server):
    server.start("first")
    with pytest.raises(ConfigError, match="was started 0 s"):
        server.start("first")
    with pytest.raises(ConfigError, match="was started 0 s"):
        server.start("first", now=True)
    assert server.begun == ["first"]
    stop_study(server.folder, "first")  # ends the run, so the study may begin again at once
    assert server.start("first").queued_since is None


def test_a_crashed_study_is_not_queued_behind_itself(server, monkeypatch):
    first = server.start("first")
    now = studies.time.time()
    monkeypatch.setattr(studies.time, "time", lambda: now + studies.START_SECONDS)
    assert server.start("first").queued_since is None
    assert server.begun == ["first", "first"]
    (first.path / STOPPED_FILE).write_text("crashed\n")
    server.start("second")
    assert server.start("first").queued_since is not None


def test_a_study_waits_for_the_first_answers_of_the_sites_before_it_and_not_for_those_that_are_asked_again(
    server,
):
    """Sites train a model alone before they answer. Until the last one has answered, the study before is resumed after a restart."""
    first = server.start("first")
    server.start("second")
    server.end("first", reasons={"a": f"a: {NOT_YET}", "b": "b: is not connected"})
    assert server.watch() == ["first"]
    server.end("first", reasons={"a": "a: does not train at this time of the day (hours)"})
    assert server.watch() == ["first", "second"]
    assert [study.path.name for study in studies_to_resume(server.folder)] == ["first", "second"]
    status = server_status(server.folder).studies["first"]
    assert status.done
    assert status.verdicts["a"].endswith("(hours)")
    assert status.asked_until == asked_until(first) > studies.time.time()
    server.end("first", reasons={"a": f"a: {NOT_YET}"}, days=-1.0)  # it is too late
    assert server_status(server.folder).studies["first"].asked_until is None
    assert [study.path.name for study in studies_to_resume(server.folder)] == ["second"]
    with pytest.raises(ConfigError, match="is done"):
        server.start("first")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", "{"),
        ("result.json", "{}"),
        ("asking", "tomorrow"),
        ("asking", "nan"),
        ("plan.json", "[]"),
        ("plan.json", '{"study": "bad", "seed": 0, "rounds": 3, "server": []}'),
        ("history.jsonl", "{}\n"),
        ("queued", "x"),
    ],
)
def test_a_study_with_a_damaged_file_is_stopped_and_the_others_go_on(server, file, text, caplog):
    """It is logged once. A study whose ServerApp still runs is not stopped, because that has read its files."""
    bad = server.start("bad")
    server.start("good")
    if file in ("result.json", "asking"):
        server.end("bad", reasons={"a": "a: is not connected"})
    (bad.path / file).write_text(text)
    assert server.watch() == ["bad", "good"]
    assert [study.path.name for study in studies_to_resume(server.folder)] == ["good"]
    status = server_status(server.folder).studies
    assert file in status["bad"].damaged
    assert (status["good"].damaged, status["bad"].stopped) == ("", None)
    assert len(server_metrics(server.folder)) > 5
    assert file in CliRunner().invoke(app, ["server", "status", str(server.folder)]).stdout
    watches = DamageWatch(server.folder), EventWatch(server.folder)
    with lock_folder(bad.path):
        Watches([*watches, *watches])()
    assert not (bad.path / STOPPED_FILE).exists()
    Watches(watches)()
    assert caplog.text.count(f"study bad: {bad.path / file}") == 1
    assert file in (bad.path / STOPPED_FILE).read_text()
    assert unended_studies(server.folder) == [HostedStudy(bad.path.with_name("good"))]
    assert not list(bad.path.parent.glob("good/stopped"))


def test_a_history_that_has_not_changed_is_not_read_again(server, monkeypatch):
    """All watches look every two seconds, and a history may have thousands of lines; the events of each change come all the same."""
    study, read = server.start("first"), list[str]()
    lines = RoundLog.lines
    monkeypatch.setattr(RoundLog, "lines", lambda log: (read.append(log.folder.name), lines(log))[1])
    events = StudyFollower(server.folder)
    every = Watches([DamageWatch(server.folder), StudyWatch(server.folder), AskWatch(server.folder)])
    for number in range(1, 4):
        study.log.append(HistoryLine(number, 1.0, {"a": {}}, {}, 0, 0))
        assert [event.text.split(",")[0] for event in events.look()] == [f"round {number} of 3"]
        for _ in range(5):
            every()
            server_metrics(server.folder)
            assert server_status(server.folder).studies["first"].round == number
            assert list(events.look()) == []
        assert read == ["first"] * 2 * number


def test_a_study_of_a_damaged_bundle_is_refused_and_the_others_go_on(server, caplog):
    """Its bundle does not count in the limits of replies, so none of its updates would be let through."""
    for name in ("first", "second"):
        server.start(name)
    bundle = server.folder / "bundles" / "b"
    shutil.copytree(bundle, bundle.with_name("good"))
    (bundle.with_name("good") / "b.fab").rename(bundle.with_name("good") / "good.fab")
    start_study(server.folder, "good", "third")
    (bundle / "start.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match="b/start.safetensors"):
        server.start("fourth")
    resume_study(server.folder, HostedStudy(server.folder / "studies" / "first"))
    assert [server.watch(), server.watch()] == [["first"], ["first", "third"]]
    for name in ("first", "second"):
        assert "b/start.safetensors" in (server.folder / "studies" / name / STOPPED_FILE).read_text()
    (bundle.with_name("good") / "server.json").write_text("{}")
    with pytest.raises(ConfigError, match="good/server.json"):
        start_study(server.folder, "good", "fifth")


def test_between_two_questions_no_serverapp_runs_and_the_next_one_starts_it(server, monkeypatch):
    """This is not a crash: the study is not resumed before, and may be stopped. A restart of the server changes nothing."""
    study, now = server.start("first"), time.time()
    server.end("first", reasons={"a": "a: is not connected"})
    rest(study, now + 900)
    clock = [0.0]
    crashed, ask = StudyWatch(server.folder, lambda: clock[0]), AskWatch(server.folder)
    for _ in range(5):
        clock[0] += 10 * studies.START_SECONDS
        Watches([crashed, ask])()
    monkeypatch.setattr(SuperLink, "wait_until_healthy", lambda link: None)
    resume_studies(server.folder)
    assert server.begun == ["first"]
    stop_study(server.folder, "first")
    assert server.stopped == []  # no run
    (study.path / STOPPED_FILE).unlink()
    monkeypatch.setattr(studies.time, "time", lambda: now + 901)
    with lock_folder(study.path):
        ask()
    assert server.begun == ["first"]
    Watches([ask, ask, crashed])()
    assert server.begun == ["first", "first"]
    assert rests_until(study) is None
    assert asked_until(study) == pytest.approx(now + 86400, abs=60)


@pytest.mark.parametrize("runs", [[], [77]])
def test_a_study_waits_in_the_queue_while_the_superlink_does_not_answer(server, runs):
    """A run that it has started all the same is noted, so that it can be stopped, and no second one is started."""
    server.start("first")
    server.start("second")
    server.end("first")
    server.silent.append(runs)
    with pytest.raises(NoAnswer):
        server.watch()
    second = HostedStudy(server.folder / "studies" / "second")
    assert (second.queued_since is None, (second.path / STOPPED_FILE).exists()) == (False, False)
    assert server.watch() == (["first"] if runs else ["first", "second"])
    assert (second.queued_since, studies_to_resume(server.folder)) == (None, [second])
    stop_study(server.folder, "second")
    assert server.stopped == (runs or [2])


@pytest.mark.parametrize("runs", [[], [77]])
def test_a_study_is_resumed_later_where_the_superlink_does_not_answer(server, runs, caplog):
    """More often than a ServerApp may end, but not for ever. The run whose answer was lost is ended first."""
    study, clock = server.start("first"), [0.0]
    crashed = Watches([StudyWatch(server.folder, lambda: clock[0])])
    for _ in range(2 * MOST_RESUMES):
        server.silent.append(runs)
        crashed()
        clock[0] += studies.START_SECONDS
        crashed()
    assert (server.begun, server.silent) == (["first"], [])
    assert caplog.text.count("is resumed in 120 s:") == 2 * MOST_RESUMES
    clock[0] += studies.START_SECONDS
    crashed()
    assert server.begun == ["first", "first"]
    assert server.stopped[-1] == (77 if runs else 1)
    assert not (study.path / STOPPED_FILE).exists()
    server.silent.extend([runs] * MOST_WAITS)
    for number in range(MOST_WAITS):
        assert not (study.path / STOPPED_FILE).exists(), number
        clock[0] += studies.START_SECONDS
        crashed()
    assert "30 times in a row" in study_end("first", study).text


def test_the_server_begins_also_where_the_superlink_does_not_answer_a_resume(server, monkeypatch, caplog):
    monkeypatch.setattr(SuperLink, "wait_until_healthy", lambda link: None)
    study = server.start("first")
    server.silent.append([])
    resume_studies(server.folder)
    assert "study first is resumed in 120 s" in caplog.text
    assert studies_to_resume(server.folder) == [study]
    resume_studies(server.folder)
    assert server.begun == ["first", "first"]


def test_asking_whether_joining_helped_can_be_stopped_and_started_again(server):
    server.start("first")
    server.end("first", reasons={"a": "a: is not connected"})
    stop_study(server.folder, "first")
    assert (len(server.stopped), studies_to_resume(server.folder)) == (1, [])
    assert server_status(server.folder).studies["first"].asked_until is None
    server.start("first")
    assert server.begun == ["first", "first"]
    assert server_status(server.folder).studies["first"].asked_until
