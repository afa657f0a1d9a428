"""CSV and Parquet: silos, missing cells, categories, labels, a second domain; and what is refused."""

import io
import os

import numpy as np
import pandas as pd
import pytest

from fedtl.data.settings import DataSettings, SequenceSettings
from fedtl.data.table import load_frame, read, silos
from fedtl.errors import DataError

CSV = "age,sex,bp,label\n50,f,120,0\n,m,130,1\n61,,,0\n40,f,110.5,1\n"
SEX = {"sex": ["f", "m"]}


def settings(path, **more):
    return DataSettings(source="table", path=str(path), **more)


def folder(path, text=CSV, **more):
    (path / "a.csv").write_text(text)
    return settings(path, **more)


def refused(settings, *parts, act=read, name=("a",)):
    with pytest.raises(DataError) as error:
        act(settings, *name)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_folder_with_one_file_per_silo(tmp_path):
    chosen = folder(tmp_path, categories=SEX)
    pd.read_csv(tmp_path / "a.csv").to_parquet(tmp_path / "b.parquet")
    (tmp_path / "README.md").touch()
    assert silos(chosen) == ["a", "b"]
    csv, parquet = read(chosen, "a"), read(chosen, "b")
    assert csv.columns == parquet.columns == ("age", "sex=f", "sex=m", "bp")
    expected = [[50, 1, 0, 120], [np.nan, 0, 1, 130], [61, 0, 0, np.nan], [40, 1, 0, 110.5]]
    for raw in (csv, parquet):
        assert raw.train.x.dtype == np.float64
        assert np.array_equal(raw.train.x, np.array(expected, np.float64), equal_nan=True)
        assert raw.train.y.tolist() == [0, 1, 0, 1]


def test_what_pandas_stored_as_a_named_index_is_a_column(tmp_path):
    frame = pd.DataFrame({7: [1.5, 2.5], 8: [0, 1]}, pd.Index([50, 60], name="age"))
    frame.to_parquet(tmp_path / "a.parquet")
    frame = frame.set_axis(["7", "8"], axis=1).reset_index()
    frame[frame.age > 50].to_parquet(tmp_path / "b.parquet")  # an index without a name says nothing
    raws = [read(settings(tmp_path, label="8"), name) for name in "ab"]
    assert [raw.columns for raw in raws] == [("age", "7")] * 2
    assert [raw.train.x.tolist() for raw in raws] == [[[50, 1.5], [60, 2.5]], [[60, 2.5]]]


@pytest.mark.parametrize("label", [[[0, 1]] * 2, [b"y", b"n"], [{"a": 1}] * 2])
def test_a_label_that_is_no_single_value_is_refused(tmp_path, label):
    pd.DataFrame({"x": [1, 2], "label": label}).to_parquet(tmp_path / "a.parquet")
    refused(settings(tmp_path), "a.parquet: label holds a value of type", "one text or number a cell")


def test_two_files_of_one_silo_are_refused(tmp_path):
    chosen = folder(tmp_path)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "a.parquet")
    refused(chosen, "silo a", ".parquet", act=silos, name=())


@pytest.mark.parametrize("site", [("x", "y", "x", "y"), (1, 2, 1, 2)])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_one_file_with_a_silo_column(tmp_path, site, suffix):
    frame = pd.DataFrame({"site": site, "v": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 1, 0]})
    path = tmp_path / f"all.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    chosen = settings(path, silo_column="site")
    assert silos(chosen) == [str(site[0]), str(site[1])]
    raw = read(chosen, str(site[1]))
    assert raw.columns == ("v",)
    assert raw.train.x.tolist() == [[2.0], [4.0]]
    assert raw.train.y.tolist() == [1, 0]


SPLIT = "v,part,pid,label\n1,train,a,0\n2,test,b,1\n3,train,a,1\n4,val,c,0\n5,test,b,0\n6,train,d,1\n"


@pytest.mark.parametrize("by_record", [False, True])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_split_column_puts_each_row_where_it_says(tmp_path, suffix, by_record):
    chosen = folder(tmp_path, SPLIT, split_column="part", unit_column="pid", by_record=by_record)
    if suffix == "parquet":
        pd.read_csv(tmp_path / "a.csv").to_parquet(tmp_path / "a.parquet")
        (tmp_path / "a.csv").unlink()
    raw = read(chosen, "a")
    frame = pd.read_csv(io.StringIO(SPLIT))
    for name, part in (("train", raw.train), ("val", raw.val), ("test", raw.test)):
        expected = frame[frame.part == name]
        assert part.x[:, 0].tolist() == expected.v.tolist()
        assert [int(label) for label in part.y] == expected.label.tolist()
        assert part.units.tolist() == expected.pid.tolist()
    assert raw.columns == ("v",)


def test_a_split_column_without_val_leaves_its_split_to_data_val(tmp_path):
    raw = read(folder(tmp_path, SPLIT.replace("val", "train"), split_column="part", columns=["v"]), "a")
    assert raw.val is None
    assert raw.train.x[:, 0].tolist() == [1, 3, 4, 6]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SPLIT.replace("val", "Train"), ("1 of 6 rows have part = 'Train'", "a.csv")),
        (SPLIT.replace("val", ""), ("1 of 6 rows have part = ''",)),
        (SPLIT.replace("test", "train"), ("no row has part = 'test'",)),
        (SPLIT.replace("train", "val"), ("no row has part = 'train'",)),
        (SPLIT.replace("6,train,d", "6,train,b"), ("pid 'b'", "'test' and 'train'")),
        (SPLIT.replace("part", "fold"), ("data.split_column", "no column 'part'", "v, fold")),
    ],
)
def test_a_split_column_that_cannot_be_used_is_refused(tmp_path, text, parts):
    refused(folder(tmp_path, text, split_column="part", unit_column="pid", columns=["v"]), *parts)


def test_a_file_needs_a_silo_column_and_a_folder_none(tmp_path):
    chosen = folder(tmp_path)
    refused(settings(tmp_path, silo_column="s"), "data.silo_column", act=silos, name=())
    refused(settings(tmp_path / "a.csv"), "set data.silo_column", act=silos, name=())
    lost = settings(tmp_path / "a.csv", silo_column="site")
    refused(lost, "data.silo_column", "column 'site'", "age, sex", act=silos, name=())
    gaps = settings(tmp_path / "a.csv", silo_column="sex")
    refused(gaps, "1 rows", "'sex'", act=silos, name=())
    assert silos(chosen) == ["a"]
    (tmp_path / "a.csv").unlink()
    refused(chosen, "no .csv or .parquet", act=silos, name=())


def test_text_needs_categories_which_the_message_proposes(tmp_path):
    refused(folder(tmp_path), "('f')", "data.categories.sex = ['f', 'm']", "data.columns")
    assert read(folder(tmp_path, columns=["age", "bp"]), "a").columns == ("age", "bp")


def test_a_cell_outside_the_categories_is_refused(tmp_path):
    refused(folder(tmp_path, categories={"sex": ["f"]}), "sex holds 'm'", "data.categories.sex = ['f']")
    refused(folder(tmp_path, categories=SEX | {"sx": ["f"]}), "data.categories", "column 'sx'")


def test_numbers_can_be_categories(tmp_path):
    text = "kind,label\n1,0\n2,1\n,0\n1234567,1\n"
    raw = read(folder(tmp_path, text, categories={"kind": ["1", "2", "1234567"]}), "a")
    assert raw.columns == ("kind=1", "kind=2", "kind=1234567")
    assert raw.train.x.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_truth_values_are_numbers_or_categories(tmp_path):
    text = "ill,label\nTrue,0\nFalse,1\n"
    assert read(folder(tmp_path, text), "a").train.x.tolist() == [[1], [0]]
    gaps = folder(tmp_path, "ill,label\nTrue,0\n,1\n", categories={"ill": ["False", "True"]})
    assert read(gaps, "a").train.x.tolist() == [[0, 1], [0, 0]]


def test_a_column_that_was_never_measured_is_all_missing(tmp_path):
    raw = read(folder(tmp_path, "chol,bp,label\n,1,0\n,2,1\n"), "a")
    assert np.isnan(raw.train.x[:, 0]).all()
    pd.DataFrame({"chol": [None, None], "label": [0, 1]}).to_parquet(tmp_path / "b.parquet")
    assert np.isnan(read(settings(tmp_path), "b").train.x).all()


def test_numbers_stored_as_text_are_text(tmp_path):
    pd.DataFrame({"v": ["1", "2"], "label": [0, 1]}).to_parquet(tmp_path / "a.parquet")
    refused(settings(tmp_path), "text ('1')")


@pytest.mark.parametrize(
    ("cell", "words"), [("inf", "1 infinite"), ("-inf", "1 infinite"), ("1e300", "1 values beyond")]
)
def test_infinite_values_are_refused(tmp_path, cell, words):
    refused(folder(tmp_path, f"v,label\n1,0\n{cell},1\n"), words, "a.csv")


def test_a_threshold_makes_two_classes(tmp_path):
    text = "v,num\n1,0\n2,3\n3,1\n4,0\n"
    assert read(folder(tmp_path, text, label="num", positive_above=0), "a").train.y.tolist() == [0, 1, 1, 0]
    words = folder(tmp_path, "v,num\n1,low\n2,high\n", label="num", positive_above=0)
    refused(words, "num", "data.positive_above")


def test_labels(tmp_path):
    assert read(folder(tmp_path, "v,label\n1,no\n2,yes\n"), "a").train.y.tolist() == ["no", "yes"]
    refused(folder(tmp_path, "v,label\n1,\n2,1\n3,0\n"), "1 of 3 rows", "'label'")
    refused(folder(tmp_path, label="num", columns=["age"]), "data.label", "column 'num'")
    refused(folder(tmp_path, columns=["weight"]), "data.columns", "column 'weight'")
    refused(folder(tmp_path, "label\n1\n0\n"), "besides 'label'")


def test_the_second_domain_gives_its_rows_without_labels(tmp_path):
    text = "v,scanner,label\n1,old,0\n2,new,1\n3,old,1\n4,new,0\n"
    more = {"domain_column": "scanner", "target_domain": "new"}
    raw = read(folder(tmp_path, text, **more), "a")
    assert raw.columns == ("v",)
    assert raw.train.x.tolist() == [[1], [3]]
    assert raw.target.tolist() == raw.target_test.x.tolist() == [[2], [4]]
    assert raw.target_test.y.tolist() == [1, 0]
    unlabelled = read(folder(tmp_path, text.replace("new,1", "new,").replace("new,0", "new,"), **more), "a")
    assert len(unlabelled.target) == 2
    assert unlabelled.target_test is None
    refused(folder(tmp_path, text.replace("new", "old"), **more), "0 of 4 rows", "scanner = 'new'")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n1,2,3,4\n", b"\xff\xfe\xfa,b\n\xff,1\n"])
def test_files_that_cannot_be_parsed_are_named(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    refused(settings(tmp_path), "a.csv")


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v\n1\n")
    assert load_frame(str(path), DataSettings()).v.tolist() == [1]
    assert load_frame(str(path), DataSettings()) is load_frame(str(path), DataSettings())
    path.write_text("v\n2\n")
    os.utime(path, ns=(1, 1))
    assert load_frame(str(path), DataSettings()).v.tolist() == [2]


@pytest.mark.parametrize("kind", ["categories", "hashed"])
def test_with_by_record_an_empty_cell_of_parquet_does_not_round_the_number_of_another_row(tmp_path, kind):
    number = 2**53 + 1  # which no float is
    more = {"categories": {"v": [str(number)]}} if kind == "categories" else {"hashed": ["v"]}
    found = []
    for name, last in (("a", 7), ("b", None)):
        frame = pd.DataFrame(
            {"v": pd.array([number, 5, last], "Int64"), "label": pd.array([number, 1, last], "Int64")}
        )
        frame.to_parquet(tmp_path / f"{name}.parquet")
        found.append(read(settings(tmp_path, by_record=True, **more), name).train)
    assert np.array_equal(found[0].x[:2], found[1].x[:2])
    assert found[0].y[:2].tolist() == found[1].y[:2].tolist() == [str(number), "1"]


@pytest.mark.parametrize("key", ["label", "unit_column", "split_column", "domain_column", "event"])
def test_a_misspelt_column_is_named_before_the_text_in_the_right_one(key, tmp_path):
    """Otherwise the advice would be to declare categories of the patient, or of the answer, and so to make it an input."""
    more = {"target_domain": "x"} if key == "domain_column" else {}
    more |= {"task": "survival"} if key == "event" else {}
    text = "who,outcome,v\np1,ill,1\np2,well,2\n"
    refused(
        folder(tmp_path, text, **{"label": "outcome", **more, key: "outcom"}),
        f"data.{key}",
        "'outcom'",
        "who, outcome, v",
    )


def test_a_misspelt_column_of_a_series_is_named_first(tmp_path):
    steps = SequenceSettings(id="who", time="t", length=2)
    text = "who,t,outcome,v\np1,0,ill,1\np1,1,ill,2\n"
    refused(folder(tmp_path, text, label="outcom", sequence=steps), "data.label", "'outcom'")
