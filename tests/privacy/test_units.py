"""Patients, or other units of several rows, protected in place of records."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtl._util.records import to_plain
from fedtl.data.dataset import Dataset
from fedtl.data.prepare import prepare_silo
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.data.splits import whole_units
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment, parse_settings, read_experiment
from fedtl.experiment.config.privacy_checks import doubtful, unsound
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.privacy import dp_sgd as mechanism
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.loop import TrainingConfig
from fedtl.training.private import release_statistics
from tests.experiment.private_silos import bench_of, data_of, silo_of, task_of
from tests.privacy.patients import of_patients, table
from tests.problems import with_training


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(0, 90), st.integers(0, 5))
def test_no_unit_is_on_both_sides_of_the_split(units, count, seed):
    units = np.array(units)
    drawn, rest = whole_units(units, count, np.random.default_rng(seed))
    assert sorted([*drawn, *rest]) == list(range(len(units)))
    assert not set(units[drawn]) & set(units[rest])
    assert len(drawn) <= count
    assert (
        len(drawn) + min(np.bincount(units)[np.unique(units[rest])], default=100) > count
    )  # nobody more fits


def test_run_protects_patients_and_says_so(tmp_path):
    (tmp_path / "data").mkdir()
    experiment = load_experiment("digits", [*table(tmp_path / "data"), "privacy.unit=patient"])
    assert experiment.data.unit_column == "patient"
    result = to_plain(run(experiment, RunFolder.create(tmp_path / "run", experiment)))
    its = result["privacy"]
    assert its["unit"] == "patient"
    assert "patient" in its["adjacency"]
    north = its["silos"]["north"]
    assert north["units"] < 30  # patients who train, not their rows
    assert north["sample_rate"] == pytest.approx(8 / north["units"])
    assert 0 < north["epsilon"] <= 5


def test_unit_column_is_not_an_input_and_no_patient_is_divided(tmp_path):
    (tmp_path / "data").mkdir()
    load_experiment("digits", [*table(tmp_path / "data"), "privacy.unit=patient"])
    from fedtl.data.table import read

    settings = DataSettings(source="table", path=str(tmp_path / "data"), unit_column="patient", scale="none")
    raw = read(settings, "north")
    assert raw.columns == ("a", "b")
    assert raw.train.units.tolist()[:2] == ["p0", "p1"]
    made = prepare_silo(raw, settings, "north", 0, ("0", "1"), frozenset({"0", "1"}))
    trains = made.data.train
    assert sorted(set(trains.units.tolist())) == list(range(made.data.train.unit_count))
    values = {
        name: {x for x, who in zip(raw.train.x[:, 0], raw.train.units, strict=True) if who == name}
        for name in set(raw.train.units)
    }
    sides = {float(x) for x in trains.x[:, 0]}, {float(x) for x in made.evaluation_set.test.x[:, 0]}
    for rows in values.values():
        assert not (rows & sides[0] and rows & sides[1])


def sides(raw, settings):
    """Return which patients, by number among the sorted ones, train, validate and test."""
    made = prepare_silo(raw, settings, "a", 0, ("0", "1"), frozenset("01"))
    parts = (made.data.train, made.data.val, made.evaluation_set.test)
    return [sorted({int(x) for x in part.x[:, 0]}) for part in parts]


@pytest.mark.parametrize("limit", [0, 10])
def test_rows_of_one_patient_never_move_another_under_privacy(limit):
    """For any patient with any number of rows."""
    settings = DataSettings(source="npz", scale="none", unit_column="patient", by_record=True, limit=limit)
    units = np.repeat(np.arange(30), 2)

    def raw(numbers):
        return Raw(Part(numbers[:, None].astype(np.float32), numbers % 2, numbers), columns=("x",))

    before = sides(raw(units), settings)
    assert [len(part) for part in before] == ([10, 1, 6] if limit else [22, 2, 6])
    for patient in range(30):
        assert sides(raw(np.concatenate([units, [patient] * 25])), settings) == before


def test_name_of_one_patient_does_not_change_how_others_are_read(tmp_path):
    """If pandas read the names as numbers, 01 and 1 would be one patient unless somebody is called x."""
    found = []
    for name in ("99", "x"):
        (tmp_path / name).mkdir()
        names = [f"{i % 15:02}" if i < 60 else str(i % 15) for i in range(119)] + [name]
        settings = load_experiment("digits", [*table(tmp_path / name, patient=names), "privacy.unit=patient"])
        with temporary_store() as shelf:
            data = build(settings, shelf, shelf).data("north")
        found.append(data.train.unit_count + data.val.unit_count)
    assert found[0] == found[1]


def test_rows_without_a_patient_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    names = [f"p{i % 30}" for i in range(119)] + [None]
    settings = load_experiment("digits", [*table(tmp_path / "data", patient=names), "privacy.unit=patient"])
    with pytest.raises(DataError, match="have no 'patient'"):
        run(settings, RunFolder.create(tmp_path / "run", settings))


def test_archives_have_an_array_of_patients(tmp_path):
    x, y = np.zeros((12, 4, 4), np.uint8), np.arange(12) % 2
    settings = DataSettings(source="npz", path=str(tmp_path), unit_column="patient")
    from fedtl.data.npz import read

    np.savez(tmp_path / "a.npz", train_x=x, train_y=y, train_patient=np.arange(12) // 3)
    assert read(settings, "a").train.units.tolist() == (np.arange(12) // 3).tolist()
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y)
    with pytest.raises(DataError, match="train_patient"):
        read(settings, "a")


def test_one_large_patient_leaves_no_test_rows():
    raw = Raw(
        Part(np.zeros((20, 3), np.float32), np.arange(20) % 2, np.zeros(20, int)), columns=("a", "b", "c")
    )
    settings = DataSettings(source="table", unit_column="patient", scale="none")
    with pytest.raises(DataError, match="increase data.test"):
        prepare_silo(raw, settings, "a", 0, ("0", "1"), frozenset({"0", "1"}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["privacy.epsilon=1", "privacy.unit=patient"],
            "privacy.unit = .patient.: source",
        ),
        (["data.unit_column=site"], "data.unit_column = .site.: only"),
    ],
)
def test_invalid_unit_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        load_experiment("digits", settings)


def test_unit_is_the_same_in_all_silos(tmp_path):
    (tmp_path / "data").mkdir()
    sets = table(tmp_path / "data")
    with pytest.raises(ConfigError, match="the same column"):
        load_experiment("digits", [*sets, "privacy.unit=patient", "data.unit_column=other"])
    overrides = [*sets, "privacy.unit=patient", "silo.north.privacy.unit=record"]
    other = parse_settings(read_experiment("digits", overrides))
    assert any("the same in all silos" in line for line in unsound(other))
    weak = load_experiment("digits", [*sets, "data.unit_column=patient"])
    assert any("k times the epsilon" in line for line in doubtful(weak))


def test_unit_without_a_unit_column_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="^here: privacy.unit = "):
        silo_of(bench_of(), tmp_path, unit="patient")


@pytest.mark.parametrize(("unit", "clips"), [("patient", 1), ("record", 4)])
def test_all_rows_of_a_patient_together_change_the_sum_by_at_most_the_clip(
    tmp_path, monkeypatch, unit, clips
):
    """
    Without noise, every patient sampled, one patient's four rows left out: as separate records they would change
    it by four clips.
    """
    monkeypatch.setattr(
        "fedtl.privacy.noise.Noise._grains", lambda self, count, _: torch.zeros(count, dtype=torch.float64)
    )
    trainer = bench_of(training=TrainingConfig(batch_size=60, momentum=0.0, lr=1.0))
    train = of_patients(data_of()).train
    alike = Dataset(train.x.clone(), train.y.clone(), train.units)
    alike.x[:4], alike.y[:4] = train.x[0], train.y[0]
    silo = silo_of(trainer, tmp_path, replace(of_patients(data_of()), train=alike), unit=unit, clip=0.01)
    silo.guarantee = with_training(silo.guarantee, sample_rate=1.0, steps=(1,))
    sums = []
    for first in (0, 1 if unit == "patient" else 4):
        drawn = torch.arange(first, silo.guarantee.protected.count)
        monkeypatch.setattr(mechanism, "poisson", lambda *_, drawn=drawn: drawn)
        own = replace(silo)
        update, shared = trainer.fit_unaccounted(own, task_of(trainer)), task_of(trainer).shared
        after = trainer.partition.join(
            {name: shared[name] + update.delta[name] for name in shared}, own.local
        )
        sums.append(torch.cat([after[name].double().flatten() for name in sorted(after)]))
    moved = float((sums[0] - sums[1]).norm()) * silo.guarantee.expected_batch / 0.01
    assert moved == pytest.approx(clips, rel=0.01)


def test_one_trainer_may_have_silos_of_records_and_of_patients(tmp_path):
    """The gradient method that was chosen for records may be book-keeping, which cannot sum a patient's rows."""
    trainer = bench_of()
    for unit, data in (("record", data_of()), ("patient", of_patients(data_of())), ("record", data_of())):
        silo = silo_of(trainer, tmp_path / unit, data, unit=unit, name=unit)
        own = replace(silo.guarantee.account, path=tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite")
        silo.guarantee = replace(silo.guarantee, account=own)
        assert any(tensor.any() for tensor in trainer.fit(silo, task_of(trainer)).delta.values())


def test_each_patient_counts_once_in_the_statistics(tmp_path):
    """
    A patient with many rows has the same weight as one with few: twice the rows give the same release, except for
    noise.
    """
    trainer = bench_of()
    once, twice = of_patients(data_of(), 1), of_patients(data_of(), 1)
    train = once.train
    doubled = torch.arange(60).repeat_interleave(2)
    twice = replace(once, train=Dataset(train.x[doubled], train.y[doubled], train.units[doubled]))
    found = []
    for name, data in (("once", once), ("twice", twice)):
        silo = silo_of(
            trainer, tmp_path / name, data, unit="patient", statistics="dp", noise="reproducible", name="a"
        )
        weights = trainer._weights(trainer.initial(3), 3)
        assert silo.guarantee.protected.count == 60
        release_statistics(trainer.loop, weights, silo, silo.guarantee.releases.statistics)
        found.append({k: v.clone() for k, v in weights.net.state_dict().items() if "running" in k})
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5)
