"""Whole private runs: what they say that they cost, and how they stop and end."""

import json
import re
import sys

import pytest

from fedtl._util.records import to_plain
from fedtl.cli.main import main
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.page_facts import run_facts
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.commands import fedtl
from tests.experiment.private_silos import SMALL
from tests.experiments import MIXED


def test_a_simulation_says_what_is_wrong_with_its_model_in_one_line(meeting, monkeypatch, capsys, tmp_path):
    words = [word for setting in (*SMALL, "privacy.statistics=dp") for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["fedtl", "run", "digits", "--out", str(tmp_path / "run"), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: blurred: ")
    assert "layer head" in line
    assert not list(tmp_path.rglob("ledger.sqlite"))


def test_a_private_run_says_what_it_cost(tmp_path):
    experiment = load_experiment("digits", SMALL)
    done = run(experiment, RunFolder.create(tmp_path, experiment))
    costs = run_facts(RunFolder.open(tmp_path), experiment, done).epsilon  # by round, for the page
    result = to_plain(done)
    private = result["privacy"]
    assert private["private"] is True
    for name, its in private["silos"].items():
        assert 7.5 < its["epsilon"] <= 8.0 < its["epsilon_replace_one"]
        assert its["delta"] == 1e-5
        assert list(costs[name]) == [1, 2]
        assert 0 < costs[name][1] < costs[name][2] == pytest.approx(its["epsilon_charged"])
        assert (its["unit"], its["adjacency"]) == ("record", private["adjacency"])
        assert (tmp_path / "silos" / name / "ledger.sqlite").stat().st_mode & 0o777 == 0o600
        own = json.loads((tmp_path / "silos" / name / "validation.json").read_text())
        assert 0 <= own["accuracy"] <= 1  # where it was computed, and nowhere else
        assert "validation" not in result["silos"][name]
    assert set(private["not_released"]) >= {"silos", "mean", "worst"}
    assert str(own["loss"]) not in (tmp_path / "result.json").read_text()
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(metrics == {} for line in history for metrics in line["silos"].values())
    page = (tmp_path / "report.html").read_text() if (tmp_path / "report.html").exists() else ""
    assert "No differential privacy" not in page


@pytest.mark.slow
def test_processes_keep_the_same_promises(tmp_path):
    sets = [*SMALL[:2], *MIXED, "privacy.epsilon=8", "privacy.noise=reproducible"]
    sets.append('data.silos=["plain", "inverted", "faint"]')
    experiment = load_experiment("digits", [*sets, "engine.workers=2"])
    result = to_plain(run(experiment, RunFolder.create(tmp_path / "two", experiment)))
    alone = load_experiment("digits", [*sets, "engine.name=serial"])
    other = to_plain(run(alone, RunFolder.create(tmp_path / "one", alone)))
    assert result["privacy"]["private"] is False
    assert result["privacy"] == other["privacy"]
    assert result["silos"] == other["silos"]


@pytest.mark.slow
def test_a_stopped_private_run_goes_on_without_paying_twice(tmp_path):
    class Stop(Exception):
        pass

    def stop(one):
        raise Stop

    experiment = load_experiment("digits", SMALL)
    folder = RunFolder.create(tmp_path, experiment)
    with pytest.raises(Stop):
        run(experiment, folder, progress=stop)
    (tmp_path / "checkpoint" / "state.pt").unlink()  # killed after the charge, before the checkpoint
    result = to_plain(run(folder.experiment(), RunFolder.open(tmp_path)))
    assert result.get("left_out") is None
    assert all(its["epsilon"] <= 8.0 for its in result["privacy"]["silos"].values())


def test_one_silo_may_promise_more(tmp_path):
    experiment = load_experiment("digits", [*SMALL, "silo.faint.privacy.epsilon=1"])
    result = to_plain(run(experiment, RunFolder.create(tmp_path, experiment)))
    assert (
        result["privacy"]["silos"]["faint"]["epsilon"] <= 1.0 < result["privacy"]["silos"]["plain"]["epsilon"]
    )


@pytest.mark.slow
def test_a_plan_that_was_lengthened_is_exit_3(tmp_path):
    words = [word for setting in SMALL for word in ("--set", setting)]
    assert fedtl("run", "digits", "--out", tmp_path / "run", *words).returncode == 0
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoint" / "state.pt").unlink()
    history = tmp_path / "run" / "history.jsonl"
    history.unlink()
    text = (tmp_path / "run" / "experiment.toml").read_text().replace("rounds = 2", "rounds = 3")
    (tmp_path / "run" / "experiment.toml").write_text(text)
    done = fedtl("run", "--resume", tmp_path / "run")
    assert done.returncode == 3, done.stderr
    assert "plan" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_budget_that_is_spent_is_exit_3_and_says_what_was_asked_and_what_is_left(tmp_path):
    """The run's folder by another name is another study on the same rows, whose ledgers came with them."""
    words = [word for setting in SMALL for word in ("--set", setting)]
    done = fedtl("run", "digits", "--out", tmp_path / "one", *words)
    assert done.returncode == 0, done.stderr
    other = (tmp_path / "one").rename(tmp_path / "two")
    for path in ("result.json", "history.jsonl", "checkpoint/state.pt"):
        (other / path).unlink()
    done = fedtl("run", "--resume", other)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert "study 'two'" in line
    assert re.search(r"taken \d+(\.\d+)? of 8 ", line)
