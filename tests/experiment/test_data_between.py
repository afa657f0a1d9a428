"""How silos of an experiment differ, and the recommendations: each from the rows that were written for it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedtl._util.records import from_plain, to_plain
from fedtl.data import facts, shift
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.data_advice import recommendations
from fedtl.experiment.data_between import differences
from fedtl.experiment.data_folder import read_data, write_data
from fedtl.experiment.data_report import data_report
from fedtl.results.data_report import BetweenSilos, DataReport, LabelShift, Separation, SiloRows
from fedtl.simulation.shared_store import temporary_store

RNG = np.random.default_rng(0)


def report_of(path, *sets):
    with temporary_store() as store:
        return data_report(load_experiment("digits", [f"data.path={path}", *sets]), store)


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift, "TREES", 20)
        yield


def write_tables(path, flipped=False):
    """
    Silos a and b are alike, c lies elsewhere, has one class in its training rows and no value of w. Two test rows of a are training
    rows of b, and three are its own. ``flipped``: the labels of test rows are the others.
    """
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(80, 3)) for name in "abc"}
    rows["a"][60:62], rows["a"][62:65] = rows["b"][:2], rows["a"][7:10]
    rows["c"][:, 0] += 10
    for name, own in rows.items():
        lines = ["u,v,w,label,part"]
        for number, (u, v, w) in enumerate(own):
            test = number >= 60
            label = (number + flipped) % 2 if test else number % 2 * (name != "c")
            lines.append(f"{u},{v},{'' if name == 'c' else w},{label},{'test' if test else 'train'}")
        (path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return path


TABLES = (
    "data.source=table",
    "data.split_column=part",
    "data.val=0.05",
    "data.classes=['0','1']",
    "model.name=mlp",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def report(tables):
    return report_of(tables, *TABLES)


def test_inputs_labels_and_gaps_between_silos(report):
    between = report.between
    assert between.inputs["c"].auc > 0.99
    assert between.pairs["a, b"].ci95[0] < 0.5 < between.pairs["a, b"].ci95[1]
    assert between.labels["c"].distance == pytest.approx(0.5, abs=0.02)  # all of one class, and half of it
    assert between.gaps == {"a": {}, "b": {}, "c": {"w": 1.0}}
    assert between.differences["c"]["u"] > 1 > abs(between.differences["a"]["v"])
    assert report.silos["c"].trained == {"0": 57}


def test_test_rows_that_are_training_rows_here_and_elsewhere(report):
    assert 2 <= report.silos["a"].tested_on_training_rows <= 3  # a validation row is no training row
    assert report.between.leaked["a, b"] >= 1
    assert "b, a" not in report.between.leaked


def test_each_recommendation_has_its_number_and_its_rule(report):
    texts = {one.rule: one for one in report.recommendations}
    assert len(texts) == len(report.recommendations) - 1  # two rules are that of copies
    one_class = texts["all training rows of a silo have one label"]
    assert (one_class.silos, one_class.number) == (("c",), 57)
    assert "57 training rows of one class" in one_class.text
    assert any("w, 100% at c" in one.text for one in report.recommendations)
    assert any(one.silos == ("c",) and "fedbn" in one.text for one in report.recommendations)


def test_labels_of_test_rows_change_no_recommendation(tables, report, tmp_path):
    changed = report_of(write_tables(tmp_path, flipped=True), *TABLES)
    assert (tmp_path / "a.csv").read_text() != (tables / "a.csv").read_text()
    assert changed.recommendations == report.recommendations
    assert changed.between == report.between


def test_the_same_report_twice_though_the_hashes_have_another_key(tables, report, monkeypatch):
    before = facts.row_hashes(np.eye(3))
    monkeypatch.setattr(facts, "KEY", b"another key")
    assert set(before).isdisjoint(facts.row_hashes(np.eye(3)))
    assert report_of(tables, *TABLES) == report


def test_large_silos_are_sampled_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("fedtl.data.shift.MOST_ROWS", 50)
    for name in "ab":
        np.savez(
            tmp_path / f"{name}.npz",
            train_x=RNG.normal(size=(200, 4)).astype(np.float32),
            train_y=np.arange(200) % 2,
        )
    report = report_of(tmp_path, "data.source=npz", "model.name=mlp")
    assert (report.between.sampled, report.between.pairs["a, b"].rows) == (25, 50)


def test_images_are_compared_by_brightness_and_a_grid(tmp_path):
    for at, name in enumerate("ab"):
        x = RNG.integers(0, 100, (30, 12, 12, 3)).astype(np.uint8)
        x[..., 2] += np.uint8(100 * at)
        np.savez(tmp_path / f"{name}.npz", train_x=x, train_y=np.arange(30) % 2)
    between = report_of(tmp_path, "data.source=npz", "model.name=convnet").between
    assert between.inputs["a"].auc > 0.99
    means = between.differences["b"]
    assert means["blue"] == pytest.approx(
        1, abs=0.05
    )  # two equal groups, far apart: one deviation from their mean
    assert abs(means["red"]) < 0.5


def test_differences_leave_out_what_no_silo_has():
    silos = {
        "a": {"v": np.array([0.0, 2.0]), "w": np.array([np.nan, np.nan])},
        "b": {"v": np.array([4.0, 6.0]), "w": np.array([np.nan, np.nan])},
    }
    found = differences(silos)
    assert found == {"a": {"v": pytest.approx(-2 / np.sqrt(5))}, "b": {"v": pytest.approx(2 / np.sqrt(5))}}


def test_rules_of_sizes_labels_and_alike_silos():
    rows = {
        name: SiloRows(n, n, 0, 0, "2 columns", trained={"0": n - 2, "1": 2})
        for name, n in (("a", 300), ("b", 20))
    }
    alike = {name: Separation(0.5, (0.45, 0.55), 100) for name in "ab"}
    between = BetweenSilos(inputs=alike, labels={"a": LabelShift(0.4, 1e-5), "b": LabelShift(0.4, 0.2)})
    found = recommendations(DataReport(rows, between=between, common={"a, b": 19}))
    numbers = {one.rule.split(" ")[0]: one for one in found}
    assert numbers["fewer"].silos == ("a", "b")
    assert "the labels of a differ" in numbers["a"].text
    assert any("look alike" in one.text for one in found)
    assert any(one.number == pytest.approx(300 / 320) for one in found)
    assert any("19 training rows in common" in one.text for one in found)
    assert any(one.text.startswith("1.2%") for one in found)  # 4 of 320 rows
    calm = replace(between, labels={}, inputs={})
    even = {name: replace(own, train=100, trained={"0": 50, "1": 50}) for name, own in rows.items()}
    assert recommendations(DataReport(even, between=calm)) == ()


def test_the_files_are_for_the_owner_and_read_as_written(report, tmp_path):
    page = write_data(tmp_path / "out", report, "seed = 0", "settings")
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o600}
    assert (
        read_data(tmp_path / "out")
        == report
        == from_plain(DataReport, json.loads(json.dumps(to_plain(report))))
    )
    assert "data.unlabelled" in page.read_text()
