"""What wrong labels cost: differences of the same seeds and silos, and how often a result names the silo."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t

from fedtl.experiment.doubtful_labels import doubt_notes
from fedtl.results.comparison import Estimate
from tests.results.test_files import COMPARISON

sys.path.insert(0, str(Path(__file__).parents[2] / "simulations" / "transfer"))
import wrong_labels


def comparison(values):
    """``values``: by silo, the accuracy of each seed."""
    scores = {name: {"accuracy": Estimate(float(np.mean(one)), None, one)} for name, one in values.items()}
    return replace(COMPARISON, methods={"fedavg": scores, "constant": scores})


RIGHT = comparison({"a": (0.9, 0.8, 0.95), "b": (0.7, 0.7, 0.7), "bad": (0.9, 0.9, 0.9)})
WRONG = comparison({"a": (0.88, 0.79, 0.95), "b": (0.68, 0.71, 0.66), "bad": (0.5, 0.6, 0.7)})


def test_costs_are_paired_by_seed_and_leave_out_the_silo_itself():
    costs = wrong_labels.Costs.of(RIGHT, WRONG, "bad")
    a, b = np.array([0.02, 0.01, 0.0]), np.array([0.02, -0.01, 0.04])
    expected = (a + b) / 2
    assert costs.mean_of_others("fedavg") == pytest.approx(expected)
    half = t.ppf(0.975, 2) * expected.std(ddof=1) / 3**0.5
    text = "\n".join(
        wrong_labels.table(costs, {"with": [["bad"], ["bad", "a"], []], "without": [["a"], [], []]})
    )
    low, high = 100 * (expected.mean() - half), 100 * (expected.mean() + half)
    assert f"| mean of the other 2 silos | {100 * expected.mean():+.1f} [{low:+.1f}, {high:+.1f}] |" in text
    assert "| bad, which has them | +30.0 " in text
    assert "| at most 1 point for the others? | not shown |" in text
    assert "constant" not in text
    assert "1 of 3 results of fedtl name bad " in text
    assert "bad, which has them" in wrong_labels.figure(costs)


def test_a_bar_is_met_by_the_whole_interval_only():
    assert wrong_labels._verdict([0.001, 0.002, 0.0]) == "yes"
    assert wrong_labels._verdict([0.0, 0.0, 0.0]) == "yes"
    assert wrong_labels._verdict([0.05, 0.052, 0.049]) == "no"
    assert wrong_labels._verdict([0.02, 0.0, -0.03]) == "not shown"


@pytest.mark.parametrize("shares", [{"bad": 0.4}, {"a": 0.3, "bad": 0.4}, {}])
def test_the_silos_that_a_result_names_are_read(shares, tmp_path):
    outcomes = {
        name: SimpleNamespace(doubts=SimpleNamespace(share=shares.get(name, 0.0)))
        for name in ("a", "b", "c", "d", "e", "bad")
    }
    run = tmp_path / "runs" / "fedtl-seed0"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"notes": ["another", *doubt_notes(outcomes)]}))
    assert wrong_labels.named(tmp_path, "fedtl", 0) == list(shares)
