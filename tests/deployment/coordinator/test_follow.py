"""``fedtl server watch``: lines as they come, until every study has ended."""

import time

import pytest
import torch
from typer.testing import CliRunner

from fedtl.cli.server import app
from fedtl.deployment.coordinator.follow import follow_studies
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.server import ServerStep
from fedtl.results.run import HistoryLine


def study(folder, name):
    config = FederationConfig(name, 0, 3, ServerStep())
    plan = StudyPlan(config, {}, "digits", deadline=5.0, tries=1, bundle="b", plan="p")
    return HostedStudy.create(folder / "studies" / name, plan, {"w": torch.zeros(1)})


def finished(number):
    norms = {"a": 1.0, "b": 1.0, "c": 50.0}
    weights = dict.fromkeys(norms, 1.0)
    return HistoryLine(
        number, 2.0, {name: {} for name in norms}, {"d": "d: is not connected"}, 10, 20, 10, weights, norms
    )


def test_the_last_round_and_then_what_happens_is_shown(tmp_path):
    one, two = study(tmp_path, "one"), study(tmp_path, "two")
    for number in (1, 2):
        one.log.append(finished(number))
    acts = iter(
        [
            lambda: one.log.append(finished(3)),
            lambda: (one.path / "result.json").write_text("{}"),
            lambda: (two.path / STOPPED_FILE).write_text("too few\n"),
        ]
    )
    lines = list(map(str, follow_studies(tmp_path, lambda: next(acts)())))
    per_round = [
        "3 sites, 2 s, 10 bytes received",
        "left out: d: is not connected",
        "warning: c: its update has norm 50",
    ]
    assert [line.split(": ", 1)[0] for line in lines] == ["one"] * 7 + ["two"]
    for line, text in zip(lines[:6], per_round * 2, strict=True):
        assert text in line
    assert ["round 2 of 3" in lines[0], "round 3 of 3" in lines[3]] == [True, True]
    assert lines[6:] == ["one: done", "two: stopped: too few"]


def test_before_the_first_study_it_says_so_and_waits_for_one(tmp_path, monkeypatch):
    """Otherwise a script that watches from before the start on would watch nothing."""
    folder = tmp_path / "srv"
    create_server(folder, "localhost", "127.0.0.1:1", 1)
    acts = iter([lambda: None, lambda: (study(folder, "one").path / STOPPED_FILE).write_text("too few\n")])
    monkeypatch.setattr(time, "sleep", lambda seconds: next(acts)())
    said = CliRunner().invoke(app, ["watch", str(folder)])
    assert "has no study yet" in said.stderr
    assert (said.stdout, said.exit_code) == ("one: stopped: too few\n", 4)


@pytest.mark.parametrize(("stops", "code"), [(True, 4), (False, 0)])
def test_the_exit_code_says_whether_a_study_was_stopped(tmp_path, stops, code):
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    its = study(tmp_path / "srv", "one")
    (its.path / (STOPPED_FILE if stops else "result.json")).write_text("{}")
    assert CliRunner().invoke(app, ["watch", str(tmp_path / "srv")]).exit_code == code
