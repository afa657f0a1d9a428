"""fedtl onboard: what it prints and writes, and what is left when it is interrupted."""

import json
import shutil

import numpy as np
import pytest

from fedtl.cli import run_folder
from tests.commands import fedtl


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """The file of a new silo of two classes that the run's silos do not have."""
    path = tmp_path_factory.mktemp("clinic")
    rng, y = np.random.default_rng(0), np.array(["well", "ill"] * 12)
    x = (rng.random((24, 8, 8)) * 120 + 120 * (y == "ill")[:, None, None]).astype(np.uint8)
    np.savez(path / "clinic.npz", train_x=x[:16], train_y=y[:16], test_x=x[16:], test_y=y[16:])
    (path / "clinic.toml").write_text('[data]\nsource = "npz"\npath = "."\nval = 0.0\n')
    return path / "clinic.toml"


def test_it_prints_each_head_and_writes_a_page(finished, clinic, tmp_path):
    words = ["--shots", "4,1", "--episodes", "3", "--alone", "1", "--out", tmp_path / "new"]
    done = fedtl("onboard", finished[0], "--data", clinic, *words)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for text in ("nearest prototype", "ridge in closed form", "With 4 labels a class, clinic answers"):
        assert text in shown
    assert ": ill, well" in done.stderr
    assert f"report: {tmp_path / 'new' / 'report.html'}" in done.stderr
    written = json.loads((tmp_path / "new" / "onboard.json").read_text())
    assert [part["shots"] for part in written["shots"]] == [1, 4]
    again = fedtl("onboard", finished[0], "--data", clinic, *words[:-1], tmp_path / "again", "--json")
    printed = json.loads(again.stdout)
    assert {**printed, "seconds": 0} == {**written, "seconds": 0}
    assert "page" not in again.stderr
    full = fedtl("onboard", finished[0], "--data", clinic, "--out", tmp_path / "new")
    assert (full.returncode, full.stderr.count("\n")) == (2, 1)
    assert "not empty" in full.stderr


def test_a_mistake_leaves_no_folder(finished, clinic, tmp_path):
    done = fedtl("onboard", finished[0], "--data", "digits", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "0 new silos" in done.stderr
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "shared.safetensors").write_bytes(b"x")
    broken = fedtl("onboard", tmp_path / "run", "--data", clinic, cwd=tmp_path)
    assert broken.returncode == 2
    assert "shared.safetensors" in broken.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_interrupted_command_says_what_it_leaves(monkeypatch):
    monkeypatch.setattr(run_folder, "_state", run_folder._State())
    assert "kept" in run_folder.interrupted_note()
    run_folder.nothing_is_kept()
    assert run_folder.interrupted_note() == "nothing was written"
