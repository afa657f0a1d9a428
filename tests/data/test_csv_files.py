"""A CSV file is read as it is written, or refused with the line and what to do."""

import csv
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fedtl.data.input_files import read_inputs
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.table import read, silos
from fedtl.errors import DataError


def folder(path, text, written="utf-8", **more):
    (path / "a.csv").write_bytes(text.encode(written))
    return DataSettings(source="table", path=str(path), **more)


def refused(settings, *parts, act=read, name=("a",)):
    with pytest.raises(DataError) as error:
        act(settings, *name)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("label,v,w\n1,2,3,\n0,4,5,\n", ("a.csv line 2", "4 fields", "3 columns", "separator at the end")),
        ("label,v\n7,1,2\n8,0,4\n", ("line 2", "give it a name in the header")),
        ("label,v\n1,2\n0,4,5,6\n", ("line 3", "4 fields", "quote a cell")),
        ("label,v,w\n1,2,3\n\n0,4\n", ("line 4", "2 fields", "an empty cell")),
        ('label,v\n1,"two\nlines"\n0\n', ("line 4", "1 fields")),
        ("label,v,v\n1,2,3\n", ("two columns are named 'v'",)),
        ("", ("empty",)),
    ],
)
def test_rows_that_differ_from_the_header_are_refused(tmp_path, text, parts):
    refused(folder(tmp_path, text), *parts)


def test_with_by_record_such_a_row_is_empty_and_the_others_are_read(tmp_path):
    text = "label,v,w\n1,2,3\n0,4,5,\n1,6\n0,7,8\n"
    raw = read(folder(tmp_path, text, by_record=True), "a")
    assert np.array_equal(raw.train.x, [[2, 3], [np.nan, np.nan], [np.nan, np.nan], [7, 8]], equal_nan=True)
    assert raw.train.y.tolist() == ["1", "", "", "0"]


EUROPEAN = "label;größe\n1;2,5\n0;-3,25\n"


@pytest.mark.parametrize("by_record", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_delimiter_decimal_and_encoding(tmp_path, encoding, by_record):
    more = {"delimiter": ";", "decimal": ",", "encoding": encoding, "by_record": by_record}
    raw = read(folder(tmp_path, EUROPEAN, encoding, **more), "a")
    assert raw.columns == ("größe",)
    assert raw.train.x.tolist() == [[2.5], [-3.25]]


def test_by_record_a_point_is_no_decimal_comma(tmp_path):
    more = {"delimiter": ";", "decimal": ",", "by_record": True}
    raw = read(folder(tmp_path, "label;v\n1;2.5\n0;1,5\n", **more), "a")
    assert np.array_equal(raw.train.x, [[np.nan], [1.5]], equal_nan=True)


def test_what_to_set_is_proposed(tmp_path):
    refused(folder(tmp_path, EUROPEAN), 'data.delimiter = ";"', 'data.decimal = ","')
    refused(folder(tmp_path, EUROPEAN, delimiter=";"), 'data.decimal = ","', "'2,5'")
    refused(folder(tmp_path, EUROPEAN.replace(",", "."), "cp1252"), "data.encoding", "cp1252", "0xf6")
    refused(folder(tmp_path, "label\tv\n1\t2\n"), 'data.delimiter = "\\t"')
    refused(
        folder(tmp_path, "label,v\n1,2\n", delimiter=";"),
        'data.delimiter = ","',
        "all files",
        "write this one",
    )


@pytest.mark.parametrize(
    ("cells", "says"),
    [(("1,234", "12,345"), "separates thousands"), (("1,234", "0,345"), "is a decimal mark")],
)
def test_a_comma_before_three_digits_may_separate_thousands(tmp_path, cells, says):
    refused(
        folder(tmp_path, "v;label\n" + "".join(f"{cell};0\n" for cell in cells), delimiter=";"),
        says,
        'data.decimal = ","',
    )


SICK = "v,label\n1,None\n2,Mild\n3,None\n"


def test_a_word_for_missing_is_a_label_where_it_is_declared(tmp_path):
    refused(folder(tmp_path, SICK), "2 of 3 rows have the label 'None'", "data.classes")
    declared = folder(tmp_path, SICK, classes=["None", "Mild"])
    assert read(declared, "a").train.y.tolist() == ["None", "Mild", "None"]
    by_record = folder(tmp_path, SICK, classes=["None", "Mild"], by_record=True)
    assert read(by_record, "a").train.y.tolist() == ["None", "Mild", "None"]
    others = folder(tmp_path, SICK, classes=["Severe", "Mild"], by_record=True)
    assert read(others, "a").train.y.tolist() == ["", "Mild", ""]


def test_a_word_for_missing_is_a_category_where_it_is_declared(tmp_path):
    text = "kind,label\nNone,0\nB,1\nNA,0\n"
    assert read(folder(tmp_path, text, categories={"kind": ["B"]}), "a").train.x.tolist() == [[0], [1], [0]]
    declared = read(folder(tmp_path, text, categories={"kind": ["B", "None"]}), "a")
    assert declared.train.x.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_a_word_for_missing_is_a_silo_where_it_is_declared(tmp_path):
    folder(tmp_path, "site,v,label\nNA,1,0\nEU,2,1\n")
    whole = DataSettings(source="table", path=str(tmp_path / "a.csv"), silo_column="site")
    refused(whole, "1 rows have site = 'NA'", "data.silos", act=silos, name=())
    declared = whole.model_copy(update={"silos": ["NA", "EU"]})
    assert silos(declared) == ["EU", "NA"]
    assert read(declared, "NA").train.x.tolist() == [[1]]


def test_columns_are_read_in_the_order_of_the_first_file(tmp_path):
    folder(tmp_path, "v,kind,label,w\n1,x,0,2\n3,y,1,4\n")
    (tmp_path / "b.CSV").write_text("label,w,kind,v\n0,20,y,10\n1,40,x,30\n")
    settings = DataSettings(source="table", path=str(tmp_path), categories={"kind": ["x", "y"]})
    assert silos(settings) == ["a", "b"]
    assert read(settings, "b").columns == read(settings, "a").columns == ("v", "kind=x", "kind=y", "w")
    assert read(settings, "b").train.x.tolist() == [[10, 0, 1, 20], [30, 1, 0, 40]]


def test_dropped_columns_are_not_read(tmp_path):
    text = ",v,outcome,label\n0,1,a,0\n1,2,b,1\n"
    assert read(folder(tmp_path, text, drop=["Unnamed: 0", "outcome"]), "a").columns == ("v",)
    refused(folder(tmp_path, text, drop=["x"]), "data.drop", "no column 'x'")


@pytest.mark.parametrize(("suffix", "advice"), [(".arff", "scipy.io.arff"), (".xls", "saved as .xlsx")])
def test_formats_that_are_not_read_are_named(tmp_path, suffix, advice):
    (tmp_path / f"a{suffix}").touch()
    refused(DataSettings(source="table", path=str(tmp_path)), f"1 {suffix}", advice, act=silos, name=())


def test_new_rows_may_have_columns_in_another_order_and_further_ones(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("note,w,sex,v\nx,2,f,1\ny,4,m,3\n")
    settings = DataSettings(source="table", categories={"sex": ["f", "m"]})
    known = Inputs("native", "native", ("v", "sex=f", "sex=m", "w"))
    rows = read_inputs(path, settings, known, (4,))
    assert rows.x.tolist() == [[1, 1, 0, 2], [3, 0, 1, 4]]
    assert rows.unread == ("note",)
    path.write_text("w,v\n2,1\n")
    with pytest.raises(DataError, match="no column 'sex'"):
        read_inputs(path, settings, known, (4,))


CELLS = st.one_of(
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.4f}"),
    st.sampled_from(["", "NA", "None", "1,5", "a b", 'say "x"', "7", "1e999", "-999", "TRUE", " 3", "0x1F"]),
)


@examples(max_examples=60, deadline=None)
@example([[""], ["1", "2", "7"]], ",", "utf-8", True)
@given(
    st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-16", "cp1252"]),
    st.booleans(),
)
def test_every_file_is_read_to_the_number_or_refused_in_one_line(
    tmp_path_factory, rows, mark, code, by_record
):
    """Against Python's own reader of CSV: what is read is what is written at that place."""
    text = io.StringIO()
    csv.writer(text, delimiter=mark).writerows([["v", "w", "label"], *rows])
    path = tmp_path_factory.mktemp("fuzz")
    settings = folder(path, text.getvalue(), code, delimiter=mark, encoding=code, by_record=by_record)
    try:
        raw = read(settings, "a")
    except DataError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert str(path) in message
        assert not by_record
        return
    assert len(raw.train.y) == len(rows)
    for x, y, cells in zip(raw.train.x, raw.train.y, rows, strict=True):
        if len(cells) != 3:
            assert by_record
            assert np.isnan(x).all()
            assert y == ""
            continue
        for value, cell in zip(x.tolist(), cells[:2], strict=True):
            try:
                number = float(cell)
            except ValueError:
                assert np.isnan(value) or cell == "TRUE"
            else:
                assert value == pytest.approx(number) or (np.isnan(value) and abs(number) > 1e38)
