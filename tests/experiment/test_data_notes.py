"""Notes about labels and values that silos lack, and about state that is a mean over sampled silos."""

import numpy as np
import pytest

import fedtl
from fedtl.experiment.notes import alone_note


def notes_of(tmp_path, labels, method="fedtl", **settings):
    """Run one round at silos whose rows have these labels, and return the notes."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    data = {name: (x, np.resize(values, 40)) for name, values in labels.items()}
    experiment = {"rounds": 1, "model": {"name": "mlp"}, "method": {"name": method}, **settings}
    return fedtl.run(experiment, data, out=tmp_path / "run", workers=1).result.notes


LABELS = {"north": ["a", "b", "c"], "south": ["a", "b"], "west": ["a", "b", "c", "d", "e", "f", "g"]}


@pytest.mark.parametrize("method", ["fedtl", "fedavg"])
def test_a_label_that_a_silo_lacks_is_noted_where_heads_stay(tmp_path, method):
    told = [note for note in notes_of(tmp_path, LABELS, method) if "label" in note]
    if method == "fedavg":
        assert told == []
    else:
        (note,) = told
        assert "(north: 'd', 'e', 'f', 1 more; south: 'c', 'd', 'e', 2 more)" in note


def test_silos_with_the_same_labels_have_no_note(tmp_path):
    assert not [note for note in notes_of(tmp_path, {name: ["a", "b"] for name in LABELS}) if "label" in note]


def test_a_silo_that_trains_without_others_is_noted():
    told = {
        (name, len(silos)): list(alone_note(fedtl.create_method(name), silos))
        for name in ("fedavg", "local")
        for silos in (["a"], ["a", "b"])
    }
    assert [key for key, notes in told.items() if notes] == [("fedavg", 1)]


@pytest.mark.parametrize(("different", "told"), [(40, True), (22, True), (8, False)])
def test_as_many_labels_as_rows_are_noted(different, told, tmp_path):
    notes = notes_of(tmp_path, {key: [f"k{n}" for n in range(different)] for key in "ab"}, "fedavg")
    assert any("almost as many labels" in note for note in notes) == told


@pytest.mark.slow
def test_a_private_run_tells_nothing_of_the_rows(tmp_path):
    settings = {"privacy": {"epsilon": 8.0}, "data": {"classes": list("abcdefg"), "scale": "none"}}
    assert not [note for note in notes_of(tmp_path, LABELS, "fedper", **settings) if "label" in note]


def test_a_column_without_values_is_noted(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {"age": rng.normal(size=40), "bmi": rng.normal(size=40), "ill": np.arange(40) % 2}
    )
    empty = table.assign(bmi=np.nan)
    some = table.assign(bmi=table["bmi"].where(table["age"] > 0))
    settings = {"rounds": 1, "model": {"name": "mlp"}, "data": {"label": "ill"}}
    run = fedtl.run(settings, {"north": some, "south": empty, "west": table}, out=tmp_path / "run", workers=1)
    (note,) = [note for note in run.result.notes if "column" in note]
    assert "(south: 'bmi')" in note
    assert np.isfinite(run.metrics.to_numpy(float)).all()


@pytest.mark.parametrize(("method", "sampled"), [("scaffold", 2), ("scaffold", "all"), ("fedavg", 2)])
def test_a_mean_over_sampled_silos_is_noted(tmp_path, method, sampled):
    notes = notes_of(tmp_path, {name: ["a", "b"] for name in LABELS}, method, silos_per_round=sampled)
    told = [note for note in notes if "silos_per_round" in note]
    assert len(told) == (method == "scaffold" and sampled == 2)
    assert all("control" in note for note in told)
