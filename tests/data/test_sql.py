"""Rows of SQLite: the same as those of a CSV file, by a column, a parameter or a file a silo; and queries that do more than read."""

import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest

from fedtl.data import sql
from fedtl.data.prepare import read_silo, silo_names
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import parse_experiment

ALL = "SELECT * FROM visits ORDER BY id"
BY_NAME = "SELECT id, age, sex, ill FROM visits WHERE hospital = :silo ORDER BY id"
RNG = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "id": np.arange(40),
        "hospital": ["north", "south"] * 20,
        "age": np.where(np.arange(40) % 9 == 4, np.nan, RNG.normal(60, 9, 40).round(2)),
        "sex": RNG.choice(["f", "m"], 40),
        "ill": RNG.integers(0, 2, 40),
    }
)


def database(path, rows=ROWS):
    with closing(sqlite3.connect(path)) as connection:
        rows.to_sql("visits", connection, index=False)
    return path


@pytest.fixture
def file(tmp_path):
    return database(tmp_path / "hospitals.db")


def data_of(path, query=ALL, **others):
    data = {
        "source": "sql",
        "path": str(path),
        "query": query,
        "label": "ill",
        "drop": ["id"],
        "categories": {"sex": ["f", "m"]},
    }
    return parse_experiment({"data": {**data, **others}, "model": {"name": "mlp"}}).data


def same(one, other):
    assert one.columns == other.columns
    np.testing.assert_array_equal(one.train.x, other.train.x)
    np.testing.assert_array_equal(one.train.y, other.train.y)


def test_the_rows_are_those_of_a_csv_file(file, tmp_path):
    ROWS.to_csv(tmp_path / "hospitals.csv", index=False)
    by_column = data_of(file, silo_column="hospital")
    table = by_column.model_copy(update={"source": "table", "path": str(tmp_path / "hospitals.csv")})
    assert silo_names(by_column) == silo_names(table) == ["north", "south"]
    by_name = data_of(file, BY_NAME, silos=["south", "north"])
    assert silo_names(by_name) == ["north", "south"]
    for silo in ("north", "south"):
        same(read_silo(by_column, silo), read_silo(table, silo))
        same(read_silo(by_name, silo), read_silo(table, silo))
    (tmp_path / "each").mkdir()
    for silo, own in ROWS.drop(columns="hospital").groupby(ROWS.hospital):
        database(tmp_path / "each" / f"{silo}.sqlite", own)
    each = data_of(tmp_path / "each")
    assert silo_names(each) == ["north", "south"]
    same(read_silo(each, "south"), read_silo(table, "south"))


def test_a_name_is_a_value_and_no_part_of_the_query(file):
    odd = data_of(file, BY_NAME, silos=["x' OR '1'='1"])
    with pytest.raises(DataError, match="finds no row"):
        sql.read(odd, odd.silos[0])


@pytest.mark.parametrize("quoted", ["':silo'", '":silo"', "`:silo`", "[:silo]", "'it''s :silo'"])
def test_a_quoted_silo_is_no_parameter(quoted):
    assert not sql.takes_silo(f"SELECT * FROM visits WHERE note <> {quoted} ORDER BY id")
    assert sql.takes_silo(f"SELECT * FROM visits WHERE note <> {quoted} AND (hospital=:silo) ORDER BY id")


def test_a_silo_in_a_comment_is_no_parameter(file):
    for query in (
        "SELECT * FROM visits -- :silo\nORDER BY id",
        "SELECT * FROM visits ORDER BY id /* '\n:silo",
    ):
        with pytest.raises(ConfigError, match="of which silo"):
            data_of(file, query, silos=["south", "north"])
    assert sql.takes_silo("SELECT a -- it's\nFROM visits WHERE hospital = :silo -- it's")


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT *, row_number() OVER (ORDER BY id) FROM visits", False),
        ("SELECT * FROM (SELECT * FROM visits WHERE (age > 1) ORDER BY id)", False),
        ("SELECT 'order by' FROM visits -- ORDER BY id", False),
        ("SELECT * FROM visits WHERE note <> '(' order/* so */\nBY max(id, (1))", True),
        ("SELECT *, ') ORDER BY (' FROM visits", False),
    ],
)
def test_only_the_outer_order_counts(query, ordered):
    assert sql.orders_rows(query) == ordered


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM visits",
        "UPDATE visits SET ill = 1",
        "DROP TABLE visits",
        "CREATE TABLE further (a)",
        "ATTACH DATABASE 'file:{0}/other.db?mode=rwc' AS other",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('{0}/evil.so')",
        "VACUUM INTO '{0}/copy.db'",
        "SELECT 1; DELETE FROM visits",
    ],
)
def test_a_query_can_only_read(file, tmp_path, query):
    before, text = file.read_bytes(), query.format(tmp_path)
    settings = data_of(file, silo_column="hospital").model_copy(update={"query": text})
    with pytest.raises(DataError, match=r"data\.query on"):
        sql.silos(settings)
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["hospitals.db"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT * FROM nowhere ORDER BY id", "no such table"),
        ("SELECT *, age FROM visits ORDER BY id", "two columns 'age'"),
        ("SELECT hospital, ill, x'00ff' AS scan FROM visits ORDER BY id", "'scan' holds binary"),
    ],
)
def test_a_query_that_gives_no_table_says_why(file, query, words):
    with pytest.raises(DataError, match=words):
        sql.silos(data_of(file, query, silo_column="hospital"))


def test_a_query_that_finds_too_much_is_refused(file, monkeypatch):
    monkeypatch.setattr(sql, "MAX_CELLS", 100)
    sql._found.cache_clear()
    with pytest.raises(DataError, match="more than 100 values"):
        sql.silos(data_of(file, silo_column="hospital"))


def test_a_database_in_wal_mode_is_refused_and_its_copy_read(file, tmp_path):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    before = file.read_bytes()
    with pytest.raises(DataError, match="in WAL mode"):
        sql.silos(data_of(file, silo_column="hospital"))
    assert [one.name for one in tmp_path.iterdir()] == ["hospitals.db"]
    assert file.read_bytes() == before
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"VACUUM INTO '{tmp_path / 'copy.db'}'")
    assert sql.silos(data_of(tmp_path / "copy.db", silo_column="hospital")) == ["north", "south"]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "a.db").write_text("no database at all")
    with pytest.raises(DataError, match="not a database"):
        sql.silos(data_of(tmp_path / "a.db", silo_column="hospital"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"query": ""}, "data.query is empty"),
        ({"query": "SELECT * FROM visits"}, "no ORDER BY"),
        ({"query": "SELECT * FROM visits ORDER BY Random ()"}, "draws random"),
        ({}, "of which silo"),
        ({"query": BY_NAME}, "list its values"),
        ({"query": BY_NAME, "silo_column": "hospital"}, "parameter :silo"),
        ({"silo_column": "hospital", "by_record": True}, "from other rows"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(file, settings, words):
    with pytest.raises(ConfigError, match=words):
        data_of(file, **settings)


def test_privacy_is_refused(file):
    data = {"source": "sql", "path": str(file), "query": ALL, "silo_column": "hospital", "label": "ill"}
    with pytest.raises(ConfigError, match="from other rows"):
        parse_experiment({"data": data, "model": {"name": "mlp"}, "privacy": {"epsilon": 3.0}})


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("duckdb")
    rows = ROWS.assign(seen=pd.date_range("2020-01-01", periods=40), smokes=ROWS.ill == 1)
    rows.to_parquet(tmp_path / "hospitals.parquet", index=False)
    return tmp_path / "hospitals.parquet"


OF_ROWS = ALL.replace("visits", "rows")


def test_the_rows_of_a_parquet_file_are_those_of_sqlite(file, parquet, tmp_path):
    columns = OF_ROWS.replace("*", "* EXCLUDE (seen, smokes)")
    by_column = data_of(parquet, columns, silo_column="hospital")
    by_name = data_of(parquet, BY_NAME.replace("visits", "rows"), silos=["south", "north"])
    assert silo_names(by_column) == ["north", "south"]
    for silo in ("north", "south"):
        wanted = read_silo(data_of(file, silo_column="hospital"), silo)
        same(read_silo(by_column, silo), wanted)
        same(read_silo(by_name, silo), wanted)
    (tmp_path / "each").mkdir()
    ROWS[ROWS.hospital == "north"].to_parquet(tmp_path / "each" / "north.parquet", index=False)
    wanted = read_silo(data_of(file, silo_column="hospital"), "north")
    same(read_silo(data_of(tmp_path / "each", OF_ROWS, drop=["id", "hospital"]), "north"), wanted)


def test_a_parquet_query_has_dates_and_truth_values(parquet):
    query = "SELECT hospital, ill, seen, smokes, CAST(age AS DECIMAL(9, 2)) AS age FROM rows ORDER BY id"
    names, rows = sql._found(str(parquet), 0, 0, query, "")
    assert names == ["hospital", "ill", "seen", "smokes", "age"]
    assert rows[1][:4] == ["south", ROWS.ill[1], "2020-01-02T00:00:00", ROWS.ill[1]]
    assert rows[1][4] == ROWS.age[1]
    assert rows[4][4] is None or np.isnan(rows[4][4])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT * FROM read_csv('{0}/secret.csv') ORDER BY 1", "only this file can be read"),
        ("SELECT * FROM '{0}/hospitals.parquet' ORDER BY 1", "only this file can be read"),
        ("COPY rows TO '{0}/copy.csv'", "single SELECT"),
        ("SELECT 1 ORDER BY 1; SELECT 2", "single SELECT"),
        ("ATTACH '{0}/new.db' AS other", "single SELECT"),
        ("SET enable_external_access = true", "single SELECT"),
        ("INSTALL httpfs", "single SELECT"),
        ("SELECT * FROM pd ORDER BY 1", "only this file can be read"),
        ("SELECT hospital, ill, [1, 2] AS pair FROM rows ORDER BY id", "'pair' holds values of type list"),
        ("SELECT hospital, ill, 'a'::BLOB AS scan FROM rows ORDER BY id", "'scan' holds binary"),
        ("SELECT hospital, age, age FROM rows ORDER BY id", "two columns 'age'"),
        ("SELECT * FROM visits ORDER BY id", "the table is called rows"),
    ],
)
def test_a_parquet_query_reads_this_file_only(parquet, tmp_path, query, words):
    (tmp_path / "secret.csv").write_text("hospital,ill\nnorth,1\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    settings = data_of(parquet, OF_ROWS, silo_column="hospital")
    with pytest.raises(DataError, match=words) as caught:
        sql.silos(settings.model_copy(update={"query": query.format(tmp_path)}))
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_is_no_parquet_is_refused(parquet):
    parquet.write_text("no table at all")
    with pytest.raises(DataError, match="read as Parquet"):
        sql.silos(data_of(parquet, OF_ROWS, silo_column="hospital"))


def test_the_parameter_is_written_as_duckdb_does_outside_of_texts():
    assert (
        sql.with_dollar("SELECT ':silo' WHERE a = :silo -- :silo")
        == "SELECT ':silo' WHERE a = $silo -- :silo"
    )
