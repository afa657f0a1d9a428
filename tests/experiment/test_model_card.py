"""The model card of an export has what a reader of the weights needs, and nothing exact of private rows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from fedtl._util.records import from_plain
from fedtl.data.preprocess import Inputs
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.model_card import write_card
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.run import RunResult
from tests.report.samples import a_result

RIGHT = 45  # of 60 test rows


def model(path, *overrides):
    """A finished model of silo north, as an export sees it."""
    experiment = load_experiment("digits", ["rounds=3", "request.purpose=a `test`", *overrides])
    folder = RunFolder.create(path / "run", experiment)
    folder.write_json("result.json", from_plain(RunResult, a_result(silos=["north", "so|uth"], extras=False)))
    y = torch.arange(60) % 3
    chosen = torch.where(torch.arange(60) < RIGHT, y, (y + 1) % 3)
    folder.silo("north").mkdir(parents=True)
    scores = 3.0 * torch.nn.functional.one_hot(chosen, 3)
    save_file({"scores": scores, "y": y, "ids": torch.arange(60)}, folder.silo("north") / "test.safetensors")
    return SimpleNamespace(
        **{"silo": "north", "folder": folder, "experiment": experiment, "settings": experiment.model},
        **{"task": experiment.data.predicted, "classes": ("a", "b", "c"), "shape": (1, 12, 12)},
        inputs=Inputs("native", "native", ()),
    )


def card(own, out, about=None):
    out.mkdir()
    write_card(own, out, about)
    return (out / "README.md").read_text()


def test_a_card_has_use_silos_rows_metrics_with_intervals_privacy_and_limits(tmp_path):
    text = card(model(tmp_path), tmp_path / "out")
    assert text.startswith("---\ntags:\n- fedtl\n")
    for part in ("Intended use", "How it was made", "Metrics", "Privacy", "Limits"):
        assert f"\n## {part}\n" in text
    assert "Purpose of the study: `a 'test'`." in text
    assert "silos: 2 (`north`, `so|uth`)" in text
    for rows in ("200 for training", "24 for validation", "60 for testing"):
        assert rows in text
    right = np.repeat([1.0, 0.0], [RIGHT, 60 - RIGHT])
    low, high = stats.t.interval(0.95, 59, right.mean(), stats.sem(right))
    assert f"| accuracy (%) | 75.0 {100 * low:.0f}…{100 * high:.0f} |" in text
    assert "No differential privacy" in text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert (config["num_labels"], config["input_shape"]) == (3, [1, 12, 12])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (("age", "sex=f", "sex=m"), "rows with the columns `age`, `sex`,"),
        (("0", "1", "2"), "rows of 3 columns,"),
        (tuple(f"x{at}" for at in range(40)), "rows of 40 columns,"),
    ],
)
def test_a_card_names_the_columns_of_a_table(inputs, said, tmp_path):
    """By the names that a row of the table has, not by those of the inputs that a text becomes."""
    own = model(tmp_path)
    own.experiment = own.experiment.model_copy(
        update={"data": own.experiment.data.model_copy(update={"categories": {"sex": ["f", "m"]}})}
    )
    own.inputs = replace(own.inputs, columns=inputs)
    assert said in card(own, tmp_path / "out")


def test_of_a_private_run_it_has_no_exact_figure(tmp_path):
    text = card(model(tmp_path, "privacy.epsilon=3", "model.name=convnet_gn"), tmp_path / "out")
    assert "None: exact results" in text
    assert "75.0" not in text
    assert "for training" not in text
    assert "local-only" in text


@pytest.mark.parametrize("distilled", [{"distilled": {"weights": 3}}])
def test_metrics_of_a_distilled_net_are_said_to_be_those_of_its_teacher(distilled, tmp_path):
    assert "was distilled from" in card(model(tmp_path), tmp_path / "out", distilled)


def test_a_model_without_a_result_has_no_numbers(tmp_path):
    """As one that was adopted in a deployment."""
    own = model(tmp_path)
    own.folder.write_json("result.json", {"study": "x"})
    assert "None were measured." in card(own, tmp_path / "out")
