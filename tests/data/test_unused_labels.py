"""Files in which labels of one silo are not used: they change nothing of any silo's rows, order, splits or fingerprints."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fedtl.data import prepare
from fedtl.data.fingerprint import rows_fingerprint
from fedtl.data.parts import split_rows
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.few_labels import label_notes

ROWS = 30
UNUSED = {
    "others": lambda y: 1 - y,
    "text": lambda y: "maybe",
    "empty": lambda y: "",
    "word": lambda y: "None",
    "fraction": lambda y: 0.5,
    "float": lambda y: f"{y}.0",
}


def experiment(path, *more):
    if not path.exists():
        path.touch() if path.suffix else path.mkdir(parents=True)
    return load_experiment("digits", [f"data.path={path}", "data.unlabelled=['c']", *more])


def rows_of_all(its):
    """What training, selection and the pages see of each silo: everything but the test labels of "c", which stay."""
    schema = read_data_schema(its)
    found = {"schema": schema}
    for name in schema.silos:
        raw = prepare.read_silo(its.data, name)
        one = prepare.prepare_silo(raw, its.data, name, its.split_seed, schema.union, schema.trained)
        fingerprint = rows_fingerprint(raw, labels=name != "c")
        tensors = (one.data.inputs, one.data.train.y, one.data.val.x, one.data.val.y)
        test = one.evaluation_set
        found[name] = (
            fingerprint,
            one.data.classes,
            one.inputs,
            *tensors,
            test.test.x,
            test.test.y,
            test.ids,
        )
    return found


def alike(one, other):
    same = [
        torch.equal(a.nan_to_num(), b.nan_to_num()) if isinstance(a, torch.Tensor) else a == b
        for name in "abc"
        for a, b in zip(one[name], other[name], strict=True)
    ]
    return one["schema"] == other["schema"] and all(same)


def judged_rows(its, order=None):
    """The numbers of the rows of "c" that are tested on; ``order``: of the numbers, as they are read."""
    ids = split_rows(prepare.read_silo(its.data, "c"), its.data, "c", its.split_seed)[1]
    return {int(number if order is None else order[number]) for number in ids}


def labels(tested, change):
    """The label of each row of each silo; those of "c" that are not tested on are changed."""
    drawn = np.random.default_rng(1)
    for silo in "abc":
        for number, y in enumerate(drawn.integers(0, 2, ROWS).tolist()):
            yield silo, number, change(y) if silo == "c" and number not in tested else y


def write_csv(path, tested, change, as_float=False, decimal="."):
    numbers = np.random.default_rng(2).normal(size=(3 * ROWS, 2)).round(3)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["silo", "p", "q", "label"])
        for x, (silo, _, y) in zip(numbers, labels(tested, change), strict=True):
            text = f"{y}.0" if as_float and isinstance(y, int) else str(y)
            writer.writerow(
                [silo, *(str(one).replace(".", decimal) for one in x), text.replace(".", decimal)]
            )


@pytest.mark.parametrize(("as_float", "decimal"), [(False, "."), (True, ",")])
def test_of_one_csv_labels_of_the_unlabelled_silo_change_nothing(as_float, decimal, tmp_path):
    its = experiment(
        tmp_path / "t.csv",
        "data.source=table",
        "data.silo_column=silo",
        "data.delimiter=;",
        f"data.decimal={decimal}",
    )
    write_csv(tmp_path / "t.csv", (), int, as_float, decimal)
    before, tested = rows_of_all(its), judged_rows(its)
    assert before["schema"].union == ("0", "1")
    for name, change in UNUSED.items():
        write_csv(tmp_path / "t.csv", tested, change, as_float, decimal)
        assert alike(rows_of_all(its), before), name


def test_of_a_regression_they_change_nothing_and_may_be_missing(tmp_path):
    words = [
        "data.source=table",
        "data.silo_column=silo",
        "data.delimiter=;",
        "data.task=regression",
        "data.scale=none",
    ]
    its = experiment(tmp_path / "t.csv", *words)
    write_csv(tmp_path / "t.csv", (), int)
    before, tested = rows_of_all(its), judged_rows(its)
    for name in ("text", "empty", "fraction"):
        write_csv(tmp_path / "t.csv", tested, UNUSED[name])
        assert alike(rows_of_all(its), before), name


def test_of_parquet_an_empty_cell_makes_no_floats_of_the_labels_of_others(tmp_path):
    its = experiment(tmp_path / "t.parquet", "data.source=table", "data.silo_column=silo")
    found = []
    for change in (int, lambda y: None):
        tested = judged_rows(its) if found else ()
        rows = [(silo, number * 0.5, y) for silo, number, y in labels(tested, change)]
        pd.DataFrame(rows, columns=["silo", "p", "label"]).to_parquet(tmp_path / "t.parquet")
        found.append(rows_of_all(its))
    assert alike(*found)


def write_images(home, name_of, tested, change):
    drawn = np.random.default_rng(3)
    for silo, number, y in labels(tested, change):
        folder = home / silo / str(y)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (4, 4), np.uint8)).save(folder / name_of(number))


@pytest.mark.parametrize(
    "name_of", ["{:03}.png".format, lambda n: f"{n // 2:03}.{'png' if n % 2 else 'PNG'}"]
)
def test_images_of_the_unlabelled_silo_are_in_an_order_that_no_class_decides(name_of, tmp_path):
    its = experiment(tmp_path / "one", "data.source=images")
    write_images(tmp_path / "one", name_of, (), int)
    order = sorted(range(ROWS), key=name_of)
    write_images(tmp_path / "two", name_of, judged_rows(its, order), lambda y: 1 - y)
    assert alike(rows_of_all(its), rows_of_all(experiment(tmp_path / "two", "data.source=images")))


def test_two_images_of_one_name_are_in_the_order_of_their_contents(tmp_path):
    for name, first, second in (("one", "a", "b"), ("two", "b", "a")):
        for label, value in ((first, 10), (second, 200)):
            for number in range(3):
                folder = tmp_path / name / "c" / label
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), value + number).save(folder / f"{number}.png")
    one, two = (
        prepare.read_silo(experiment(tmp_path / name, "data.source=images").data, "c").train.x
        for name in ("one", "two")
    )
    assert np.array_equal(one, two)


def test_slices_are_split_by_files_whose_numbers_say_no_class(tmp_path):
    nifti = pytest.importorskip("nibabel")
    for name, wrong in (("one", ()), ("two", range(0, 8, 2))):
        for number in range(8):
            folder = tmp_path / name / "c" / ("a" if (number < 4) != (number in wrong) else "b")
            folder.mkdir(parents=True, exist_ok=True)
            values = np.full((4, 4, 3), number, np.float32)
            nifti.Nifti1Image(values, np.eye(4)).to_filename(folder / f"{number}.nii")
    words = ["data.source=images", "data.slices={axis='axial'}"]
    one, two = (
        split_rows(prepare.read_silo(its.data, "c"), its.data, "c", 0)
        for its in (experiment(tmp_path / name, *words) for name in ("one", "two"))
    )
    assert np.array_equal(one[1], two[1])
    assert np.array_equal(one[0].val.x, two[0].val.x)


def test_settings_by_which_unused_labels_would_decide_something_are_refused_or_said(tmp_path):
    with pytest.raises(ConfigError, match=r"data.wrong_labels and in data.unlabelled"):
        load_experiment("digits", ["data.unlabelled=['faint']", "data.wrong_labels={faint=0.4}"])
    (tmp_path / "one").mkdir()
    words = ["data.source=images", "data.unlabelled=['silo-1']", "data.deal={silos=2, by='dirichlet'}"]
    its = load_experiment("digits", [f"data.path={tmp_path / 'one'}", *words])
    notes = list(label_notes(its, method_of(its.method), ["silo-1", "silo-2"]))
    assert any("deals rows by their labels" in note for note in notes)
