"""The experiments as published: what their comments say is read, and the page has expected and measured side by side."""

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedtl._util.records import from_plain, to_plain
from fedtl.experiment.config.schema import Experiment
from tests.results.test_files import COMPARISON

FOLDER = Path(__file__).parents[2] / "simulations" / "published"
SPEC = importlib.util.spec_from_file_location("published_make", FOLDER / "make.py")
published = importlib.util.module_from_spec(SPEC)
sys.modules["published_make"] = published
SPEC.loader.exec_module(published)

TOML = """# Paper: Someone, 2020, table 1
# Measure: accuracy
# Expected: fedbn 89.5
# Expected with train.lr=0.1 data.limit=5 at mnist: fedbn above local, local 80
#
# Text.
#
# Difference: other
# rows.
rounds = 2
# Expected: nothing 0
"""


@pytest.fixture
def one(tmp_path):
    (tmp_path / "one.toml").write_text(TOML)
    return published.read(tmp_path / "one.toml")


def test_a_comment_is_read(one):
    assert (one.paper, one.measure, one.difference) == ("Someone, 2020, table 1", "accuracy", "other rows.")
    plain, changed = one.runs
    assert (plain.name, plain.changes, plain.claims) == (
        "one",
        (),
        (published.Claim("all silos", "fedbn", 89.5),),
    )
    assert changed.name == "one-train.lr-0.1-data.limit-5"
    assert changed.claims == (
        published.Claim("mnist", "fedbn", below="local"),
        published.Claim("mnist", "local", 80.0),
    )


def test_the_page_has_expected_and_measured_and_says_what_was_not_run(one, tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(to_plain(COMPARISON)))
    origin = published.measured_runs.Origin("fedtl compare x", "abc", "a machine", 5)
    measured = published.measure(one, one.runs[0], tmp_path, origin)
    assert measured.values["all silos"]["fedbn"] == (85.0, 95.0)
    text = published.page([one], {"one": measured})
    assert "| as in the file | all silos | fedbn | 89.5 | 90.0 ± 7.1 |" in text
    assert "| mnist | fedbn | above local | not run |" in text
    held = published.Measured(origin, {"mnist": {"fedbn": (90.0,), "local": (91.0,)}})
    assert "above local | no: 90.0 and 91.0 |" in published.page([one], {one.runs[1].name: held})
    assert from_plain(dict[str, published.Measured], to_plain({"one": measured})) == {"one": measured}


@pytest.mark.parametrize(
    ("measure", "factor"), [("half squared error", 0.5), ("squared error of all rows", 1 / 69**2)]
)
def test_errors_are_those_of_the_stored_scores(measure, factor, one, tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(to_plain(COMPARISON)))
    expected = []
    for seed in COMPARISON.seeds:
        folder = tmp_path / "runs" / f"fedbn-seed{seed}" / "silos" / "mnist"
        folder.mkdir(parents=True)
        y, scores = np.random.default_rng(seed).uniform(0, 1, (2, 9)).astype(np.float32)
        save_file({"y": y, "scores": scores[:, None]}, folder / "test.safetensors")
        expected.append(((y - scores) ** 2).mean() * factor)
    of_errors = published.Published("one", "", measure, "", one.runs)
    found = published.measure(of_errors, one.runs[0], tmp_path, published.measured_runs.Origin("", "", ""))
    assert found.values["all silos"]["fedbn"] == pytest.approx(expected, rel=1e-5)


def test_every_file_names_its_paper_its_figures_and_the_reason_for_a_difference():
    files = published.read_all()
    assert {"school", "school-private", "heart", "landmine", "digits", "crossover", "unseen-centre"} <= {
        one.name for one in files
    }
    for one in files:
        assert one.measure in (*published.METRICS, *published.OF_ROWS), one.name
        assert one.difference, one.name
        settings = Experiment.model_validate(tomllib.loads((FOLDER / f"{one.name}.toml").read_text()))
        compared = {*settings.compare.methods}
        for run in one.runs:
            assert {claim.method for claim in run.claims} <= compared, run.name
            assert {claim.below for claim in run.claims} - {""} <= compared, run.name
