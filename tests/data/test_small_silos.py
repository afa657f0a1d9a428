"""Silos with few rows or with one label are left out by a rule, before anything is trained, and named."""

import os

import numpy as np
import pytest

from fedtl.data.prepare import left_out, read_silo, silo_names
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.checks import data_contradictions
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_schema import read_data_schema
from fedtl.methods.sharing import fedavg

ROWS = {"a": [0, 1] * 15, "b c": [0, 1] * 12, "d": [0, 1] * 4, "e": [1] * 30}


@pytest.fixture
def path(tmp_path):
    lines = [f"{silo},{n},{label}" for silo, labels in ROWS.items() for n, label in enumerate(labels)]
    (tmp_path / "all.csv").write_text("\n".join(["site,v,label", *lines]) + "\n")
    return tmp_path / "all.csv"


def settings(path, **more):
    return DataSettings(source="table", path=str(path), silo_column="site", **more)


def test_silos_below_a_rule_are_left_out_with_what_they_have(path):
    both = settings(path, min_rows=20, min_labels=2)
    assert silo_names(both) == ["a", "b_c"]
    assert left_out(both) == {"d": "8 rows", "e": "1 label (1)"}
    assert silo_names(settings(path, min_rows=20)) == ["a", "b_c", "e"]
    assert silo_names(settings(path, min_labels=2)) == ["a", "b_c", "d"]
    assert silo_names(settings(path)) == ["a", "b_c", "d", "e"]
    assert len(read_silo(both, "b_c").train.y) == 24


def test_late_and_unlabelled_silos_are_not_left_out(path):
    assert silo_names(settings(path, min_rows=20, late=["d"])) == ["a", "b_c", "d", "e"]
    assert silo_names(settings(path, min_labels=2, unlabelled=["e"])) == ["a", "b_c", "d", "e"]
    assert "d" not in silo_names(settings(path, min_rows=9, silos=["a", "d"]))
    with pytest.raises(ConfigError, match="all 4 silos"):
        silo_names(settings(path, min_rows=31))


def test_the_rule_reads_a_file_again_once_it_changed(path):
    rule = settings(path, min_rows=20)
    assert "d" not in silo_names(rule)
    path.write_text(path.read_text() + "d,1,0\n" * 12)
    os.utime(path, ns=(1, 1))
    assert "d" in silo_names(rule)


def test_notes_say_who_is_left_out_and_who_is_named_otherwise(path):
    sets = [
        "data.source=table",
        f"data.path={path}",
        "data.silo_column=site",
        "data.silos=[]",
        "data.limit=0",
    ]
    experiment = load_experiment("digits", [*sets, "data.min_rows=20", "data.min_labels=2"])
    schema = read_data_schema(experiment)
    notes = list(data_notes(experiment, fedavg(), schema))
    assert any("leave out 2 of 4 silos (d: 8 rows; e: 1 label (1))" in note for note in notes), notes
    assert any("b_c is 'b c' in the data" in note for note in notes)
    plain = load_experiment("digits", sets)
    (one,) = [note for note in data_notes(plain, fedavg(), read_data_schema(plain)) if "one label" in note]
    assert "(e: '1')" in one
    assert "data.min_labels = 2" in one
    assert "data.unlabelled" in one


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"by_record": True, "min_rows": 5}, "[privacy]"),
        ({"min_labels": 2, "task": "regression"}, "data.min_labels counts classes"),
        ({"min_rows": 5, "deal": {"silos": 2}, "silo_column": ""}, "data.deal.minimum"),
    ],
)
def test_what_a_rule_cannot_go_with(path, more, said):
    lines = list(data_contradictions(DataSettings(**{**settings(path).model_dump(), **more})))
    assert any(said in line for line in lines), lines


def test_a_rule_counts_rows_of_arrays_too(tmp_path):
    for name, rows in (("a", 30), ("b", 6)):
        np.savez(tmp_path / f"{name}.npz", train_x=np.zeros((rows, 2)), train_y=np.arange(rows) % 2)
    assert left_out(DataSettings(source="npz", path=str(tmp_path), min_rows=7)) == {"b": "6 rows"}
