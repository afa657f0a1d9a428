"""Codes that look like numbers: two of them are never one name, and no number is rounded without a word."""

import sqlite3

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtl.data import sql, table
from fedtl.data.labels import label_texts
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

LARGE = 2**53 + 1


def read(folder, cells, **settings):
    """Return the rows of a CSV file with these columns of cells."""
    lines = [",".join(cells), *(",".join(row) for row in zip(*cells.values(), strict=True))]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return table.read(DataSettings(source="table", path=str(folder), label="label", **settings), "a")


X = ["0.5", "1.5", "2.5", "3.5"]


@pytest.mark.parametrize("codes", [["007", "7", "07", "8"], ["1E11", "E11", "2E10", "100000000000"]])
@pytest.mark.parametrize("by_record", [False, True])
def test_labels_and_categories_are_as_written(tmp_path, codes, by_record):
    declared = {"categories": {"icd": codes}, "by_record": by_record}
    raw = read(tmp_path, {"x": X, "icd": codes, "label": codes}, **declared)
    assert label_texts(raw.train.y) == codes
    assert raw.columns == ("x", *(f"icd={code}" for code in codes))
    np.testing.assert_array_equal(raw.train.x[:, 1:], np.eye(4))


def test_patients_and_silos_are_as_written(tmp_path):
    raw = read(tmp_path, {"x": X, "who": ["01", "1", "1E1", "10"], "label": list("0101")}, unit_column="who")
    assert raw.train.units.tolist() == ["01", "1", "1E1", "10"]
    settings = DataSettings(source="table", path=str(tmp_path / "a.csv"), label="label", silo_column="who")
    assert list(table.silos(settings)) == ["01", "1", "10", "1E1"]


def test_names_that_are_plain_numbers_stay_one_name(tmp_path):
    raw = read(tmp_path, {"x": X, "label": ["1.0", "0.0", "1", "0"]})
    assert label_texts(raw.train.y) == ["1", "0", "1", "0"]


@pytest.mark.parametrize(("code", "value"), [("007", "7"), ("1E11", "100000000000")])
def test_an_input_that_may_be_a_code_is_noted(tmp_path, code, value):
    raw = read(tmp_path, {"x": X, "icd": [code, "8", "9", "10"], "label": list("0101")})
    (note,) = raw.unread
    assert f"icd holds {code}," in note
    assert f"the number {value};" in note
    assert "data.categories.icd" in note
    assert read(tmp_path, {"x": X, "label": list("0101")}).unread == ()


def test_large_numbers_beside_an_empty_cell_of_a_csv_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=f"{LARGE}.*64 bits"):
        read(tmp_path, {"x": X, "z": [str(LARGE), "", "1", "2"], "label": list("0101")})


def test_large_numbers_beside_an_empty_cell_of_a_parquet_file_are_refused(tmp_path):
    columns = {"x": [0.5, 1.5, 2.5], "z": pa.array([LARGE, None, 1], pa.int64()), "label": [0, 1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    settings = DataSettings(source="table", path=str(tmp_path), label="label")
    with pytest.raises(DataError, match=f"{LARGE}.*64 bits"):
        table.read(settings, "a")
    hashed = settings.model_copy(update={"hashed": ["z"]})
    assert table.read(hashed, "a").train.x.shape == (3, 1 + hashed.hash_width)


@pytest.mark.parametrize("values", [[3, None, 1], [3, 2, 1]])
def test_smaller_ones_are_plain_numbers(tmp_path, values):
    columns = {"z": pa.array(values, pa.int64()), "label": [0, 1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    raw = table.read(DataSettings(source="table", path=str(tmp_path), label="label"), "a")
    np.testing.assert_array_equal(raw.train.x[:, 0], np.array(values, float))


def test_large_numbers_of_a_query_are_refused(tmp_path):
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("create table t(site, z, label)")
        connection.executemany("insert into t values(?, ?, ?)", [("a", LARGE, 0), ("a", None, 1)])
    connection.close()
    settings = DataSettings(
        source="sql",
        path=str(tmp_path / "t.db"),
        query="select * from t order by rowid",
        silo_column="site",
        label="label",
    )
    with pytest.raises(DataError, match=f"{LARGE}.*64 bits"):
        sql.read(settings, "a")


def test_two_columns_of_one_name_in_a_parquet_file(tmp_path):
    x = pa.array([1.0, 2.0])
    pq.write_table(pa.table([x, x, pa.array([0, 1])], names=["x", "x", "label"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns.*'x'"):
        table.read(DataSettings(source="table", path=str(tmp_path), label="label"), "a")


def test_a_named_index_of_pandas_is_a_column(tmp_path):
    frame = pd.DataFrame({"x": [0.5, 1.5], "label": [0, 1]}, index=pd.Index([5, 9], name="age"))
    frame.to_parquet(tmp_path / "a.parquet")
    raw = table.read(DataSettings(source="table", path=str(tmp_path), label="label"), "a")
    assert set(raw.columns) == {"x", "age"}
