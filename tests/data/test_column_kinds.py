"""Dates, ordered values and hashed categories become the numbers that Python, numpy and hashlib give; all else is refused."""

import math
from datetime import UTC, date, datetime
from hashlib import blake2b

import numpy as np
import pandas as pd
import pytest

from fedtl.data.columns import Column, Kind, column_named, parse_columns, with_declared_columns
from fedtl.data.input_files import read_inputs
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.table import read
from fedtl.errors import DataError
from fedtl.experiment.config.checks import data_contradictions

DATES = "v,admitted,label\n1,2024-02-29,0\n2,2023-12-31T18:00,1\n3,,0\n"


def folder(path, text=DATES, **more):
    (path / "a.csv").write_text(text)
    return DataSettings(source="table", path=str(path), **{"dates": ["admitted"], **more})


def columns_of(raw):
    return dict(zip(raw.columns, raw.train.x.T, strict=True))


def refused(settings, *parts):
    with pytest.raises(DataError) as error:
        read(settings, "a")
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("by_record", [False, True])
def test_a_date_is_elapsed_days_and_places_on_circles(tmp_path, by_record):
    """29 February 2024 was a Thursday, 31 December 2023 a Sunday."""
    parts = ["days", "weekday", "month", "hour"]
    more = {"reference_date": "2024-01-01", "date_parts": parts, "by_record": by_record}
    got = columns_of(read(folder(tmp_path, **more), "a"))
    assert got["admitted days"][:2].tolist() == [59.0, -0.25]
    for name, turns in (("weekday", (3 / 7, 6 / 7)), ("month", (1 / 12, 11 / 12)), ("hour", (0, 18 / 24))):
        angles = 2 * np.pi * np.array(turns)
        np.testing.assert_allclose(got[f"admitted {name} sin"][:2], np.sin(angles), atol=1e-15)
        np.testing.assert_allclose(got[f"admitted {name} cos"][:2], np.cos(angles), atol=1e-15)
    assert all(math.isnan(column[2]) for name, column in got.items() if name != "v")


def test_time_zones_and_offsets_count_the_same_moment(tmp_path):
    text = "admitted,label\n2024-07-01T01:30,0\n2024-06-30T23:30Z,1\n2024-06-30T19:30-04:00,0\n"
    got = columns_of(read(folder(tmp_path, text, time_zone="Europe/Berlin"), "a"))
    moment = datetime(2024, 6, 30, 23, 30, tzinfo=UTC)
    start = datetime(1969, 12, 31, 23, tzinfo=UTC)  # midnight of 1970-01-01 in Berlin
    assert got["admitted days"].tolist() == [(moment - start).total_seconds() / 86400] * 3
    assert got["admitted weekday sin"].tolist() == [0.0] * 3  # it is Monday in Berlin
    utc = columns_of(read(folder(tmp_path, text), "a"))
    np.testing.assert_allclose(utc["admitted weekday sin"][1:], [np.sin(2 * np.pi * 6 / 7)] * 2)


def test_dates_of_parquet_and_other_formats(tmp_path):
    frame = pd.DataFrame({"admitted": pd.to_datetime(["2024-02-29", None]), "label": [0, 1]})
    frame.to_parquet(tmp_path / "b.parquet")
    kept = folder(tmp_path, "admitted,label\n29.02.2024,0\n,1\n", date_format="%d.%m.%Y")
    np.testing.assert_array_equal(read(kept, "a").train.x, read(kept, "b").train.x)
    assert read(kept, "a").train.x[0, 0] == (datetime(2024, 2, 29) - datetime(1970, 1, 1)).days


def test_a_cell_that_is_no_date_is_named_with_its_row(tmp_path):
    text = "admitted,label\n2024-01-31,0\n31.02.2024,1\nsoon,0\n"
    refused(
        folder(tmp_path, text), "admitted holds '31.02.2024'", "data row 2 and 1 more", "data.date_format"
    )
    got = read(folder(tmp_path, text, by_record=True), "a").train.x[:, 0]
    assert np.isnan(got).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (("2024-01-31", "2024-02-01"), 'these are dates: set data.dates = ["admitted"], or'),
        (("2024-01-31", "31.01.2024"), "in several formats: write all as 2024-03-31"),
        (("31.01.2024", "01.02.2024"), 'data.date_format = "%d.%m.%Y"'),
        (("01/02/2024", "03/04/2024"), '"%d/%m/%Y" or "%m/%d/%Y"'),
        (("soon", "later"), "data.categories.admitted"),
    ],
)
def test_dates_are_proposed(tmp_path, cells, advice):
    text = "admitted,label\n" + "\n".join(f"{cell},{n % 2}" for n, cell in enumerate(cells)) + "\n"
    refused(folder(tmp_path, text, dates=[]), advice)


STAGES = "stage,label\nII,0\nI,1\n,0\nIII,1\n"


@pytest.mark.parametrize("by_record", [False, True])
def test_an_ordered_value_is_its_number_in_the_list(tmp_path, by_record):
    chosen = folder(tmp_path, STAGES, dates=[], ordered={"stage": ["I", "II", "III"]}, by_record=by_record)
    raw = read(chosen, "a")
    assert raw.columns == ("stage",)
    np.testing.assert_array_equal(raw.train.x[:, 0], [1, 0, np.nan, 2])


def test_an_ordered_value_that_is_not_listed(tmp_path):
    chosen = folder(tmp_path, STAGES, dates=[], ordered={"stage": ["I", "II"]})
    refused(chosen, "stage holds 'III'", "data.ordered.stage = ['I', 'II']")
    by_record = chosen.model_copy(update={"by_record": True})
    np.testing.assert_array_equal(read(by_record, "a").train.x[:, 0], [1, 0, np.nan, np.nan])


CODES = "icd,label\n007,0\n7,1\nE10.1,0\n,1\nE10.1,1\n"


@pytest.mark.parametrize("by_record", [False, True])
def test_a_hashed_value_is_one_signed_input(tmp_path, by_record):
    """Against hashlib. "007" and "7" are two values, whatever else is in the column."""
    more = {"dates": [], "hashed": ["icd"], "hash_width": 8, "by_record": by_record}
    raw = read(folder(tmp_path, CODES, **more), "a")
    wanted = np.zeros((5, 8))
    for row, text in enumerate(["007", "7", "E10.1", "", "E10.1"]):
        if text:
            code = int(blake2b(text.encode(), digest_size=6).hexdigest(), 16)
            wanted[row, code // 2 % 8] = 1 if code % 2 else -1
    np.testing.assert_array_equal(raw.train.x, wanted)
    assert raw.columns == tuple(f"icd#{number}" for number in range(8))
    numbers = read(folder(tmp_path, CODES.replace("E10.1", "10"), **more), "a")
    np.testing.assert_array_equal(numbers.train.x[:2], wanted[:2])


def test_many_values_are_refused_with_the_ways_out(tmp_path):
    text = "icd,label\n" + "".join(f"E{n},{n % 2}\n" for n in range(21))
    refused(
        folder(tmp_path, text, dates=[]), "21 different", "the 20", 'data.hashed = ["icd"]', "target_encoded"
    )


def test_new_rows_are_read_by_the_kinds_of_their_columns(tmp_path):
    kinds = {
        "dates": ["d"],
        "date_parts": ["days"],
        "ordered": {"s": ["a", "b"]},
        "hashed": ["h"],
        "hash_width": 2,
    }
    settings = DataSettings(source="table", **kinds)
    columns = ("d days", "s", "h#0", "h#1", "v")
    path = tmp_path / "new.csv"
    path.write_text("more,v,h,s,d\nx,5,q,b,1970-01-02\n")
    rows = read_inputs(path, settings, Inputs("native", "native", columns), (5,))
    assert rows.unread == ("more",)
    assert rows.x[0, [0, 1, 4]].tolist() == [1, 1, 5]
    assert abs(rows.x[0, 2:4]).sum() == 1


def test_columns_say_what_they_become():
    settings = DataSettings(
        dates=["d"],
        ordered={"s": ["I", "II"]},
        hashed=["h"],
        hash_width=4,
        target_encoded=["t"],
        columns=["d"],
    )
    said = [str(column_named(name, settings)) for name in "dshtn"]
    assert said == [
        "d (date: days, weekday, month)",
        "s (I < II)",
        "h (hashed to 4 inputs)",
        "t (mean label of its training rows)",
        "n (number)",
    ]
    columns = parse_columns("n,sex=f|m,d,s", settings)
    assert columns[1] == Column("sex", ("f", "m"), Kind.CATEGORY)
    made = with_declared_columns(settings, columns)
    assert (made.columns, made.dates, made.ordered, made.hashed) == (
        ["n", "sex", "d", "s"],
        ["d"],
        settings.ordered,
        [],
    )


def test_the_reference_date_may_be_a_date_of_toml():
    assert DataSettings(reference_date=date(2024, 3, 1)) == DataSettings(reference_date="2024-03-01")
    for value in ("1 March", 3, datetime(2024, 3, 1)):
        with pytest.raises(ValueError, match="reference_date"):
            DataSettings(reference_date=value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"dates": ["d"], "hashed": ["d"]}, "'d' is in data.dates and in data.hashed"),
        ({"dates": ["label"]}, "data.dates lists 'label'"),
        ({"ordered": {"s": ["a", "b", "a"]}}, "data.ordered.s lists 'a' twice"),
        ({"drop": ["d"], "dates": ["d"]}, "data.drop and in data.dates"),
        ({"target_encoded": ["t"], "unlabelled": ["a"]}, "data.unlabelled"),
        ({"target_encoded": ["t"], "label_fraction": 0.5}, "data.label_fraction"),
        ({"source": "digits", "path": "", "dates": ["d"]}, "data.dates is a setting"),
        ({"source": "digits", "path": "", "sheet": "x"}, "data.sheet is a setting"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path, more, said):
    settings = DataSettings(**{"source": "table", "path": str(tmp_path), **more})
    assert any(said in line for line in data_contradictions(settings)), list(data_contradictions(settings))
