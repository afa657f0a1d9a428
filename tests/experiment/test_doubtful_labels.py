"""A silo with wrong labels is named in the result, and its rows are listed at that silo only."""

import csv

import numpy as np
import pytest

from fedtl.data.parts import split_rows
from fedtl.data.prepare import read_silo
from fedtl.data.row_numbers import training_row_numbers
from fedtl.data.wrong_labels import with_wrong_labels
from tests.experiment.runs import do, small


@pytest.mark.slow
def test_the_silo_with_wrong_labels_is_named_and_lists_its_rows(tmp_path):
    experiment = small("data.limit=100", "rounds=3", "data.wrong_labels={faint=0.4}")
    result = do(tmp_path / "run", experiment)
    shares = {name: silo["doubtful_labels"] for name, silo in result["silos"].items()}
    assert shares["faint"] > 0.25
    assert max(share for name, share in shares.items() if name != "faint") < 0.15
    (note,) = [note for note in result["notes"] if "labels in doubt" in note]
    assert "faint" in note
    assert "plain" not in note
    settings, seed = experiment.data, experiment.split_seed
    rows = read_silo(settings, "faint")
    split, _ = split_rows(rows, settings, "faint", seed)
    wrong = split.train.y != with_wrong_labels(split, settings, "faint", seed).train.y
    numbers = training_row_numbers(rows, settings, "faint", seed)
    with open(tmp_path / "run/silos/faint/doubtful_labels.csv") as file:
        listed = [int(line["row"]) for line in csv.DictReader(file)]
    assert np.isin(listed[:20], numbers[wrong]).mean() > 0.6  # 0.4 by chance
    assert np.isin(numbers[wrong], listed).mean() > 0.4


@pytest.mark.slow
def test_without_wrong_labels_no_silo_is_named_and_trimming_trains(tmp_path):
    result = do(tmp_path / "run", small("data.limit=100", "rounds=2", "method.trim=0.2"))
    assert not [note for note in result["notes"] if "labels in doubt" in note]
    assert result["mean"]["accuracy"] > 0.3
