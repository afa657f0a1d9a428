"""The page of a comparison says how the page of one of its runs is made, and the command that it gives does that."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedtl.cli.main import app
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.pages import write_compare_page
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.page_notes import one_run_note
from tests.experiment.test_tuning import compare_here
from tests.report.readers import assert_self_contained


def question(folder):
    """Two silos with two classes that are far apart."""
    rng = np.random.default_rng(0)
    for name in ("north", "south"):
        y = np.arange(60) % 2
        table = pd.DataFrame(rng.normal(size=(60, 3)) + 6 * y[:, None], columns=["a", "b", "c"])
        table.assign(label=np.where(y, "ill", "well")).to_csv(folder / f"{name}.csv", index=False)
    tune = {"name": "fedbn", "tune": {"epochs": 0}, "choose": {"candidates": ["tuned"]}}
    return parse_experiment(
        {
            "rounds": 1,
            "data": {"source": "table", "path": str(folder)},
            "model": {"name": "mlp", "settings": {"width": 8}},
            "method": tune,
            "engine": {"name": "serial"},
            "compare": {"methods": ["local", "fedbn"], "seeds": [0]},
        }
    )


@pytest.mark.slow
def test_the_command_for_one_run_makes_its_page_with_features(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    compare_here(monkeypatch, question(tmp_path / "data"), tmp_path / "compared")
    text = assert_self_contained(write_compare_page(RunFolder(tmp_path / "compared")).read_text())
    program, *words = shlex.split(re.search(r"in this folder: (fedtl report .*? --features)", text)[1])
    assert (program, words) == ("fedtl", ["report", "runs/fedbn-seed0", "--features"])
    monkeypatch.chdir(tmp_path / "compared")
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    page = assert_self_contained((tmp_path / "compared" / "runs/fedbn-seed0/report.html").read_text())
    for shown in ("by their class and by the predicted one", "before training, by silo", "statistics off by"):
        assert shown in page


def test_of_a_private_run_no_features_are_named():
    note = one_run_note("runs/fedbn-seed0", private=True)
    assert "epsilon" in note
    assert note.endswith("fedtl report runs/fedbn-seed0")
    assert "--features" not in note
