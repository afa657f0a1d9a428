"""Excel: the cells as openpyxl writes and a spreadsheet program stores them, or a refusal that names the cell."""

import re
import zipfile
from datetime import date, datetime, time

import numpy as np
import pytest

from fedtl.data import bounded
from fedtl.data.settings import DataSettings
from fedtl.data.table import read, silos
from fedtl.errors import DataError

openpyxl = pytest.importorskip("openpyxl")
ROWS = [
    ["age", "sex", "admitted", "ill", "label"],
    [50, "f", datetime(2024, 2, 29), True, "no"],
    [61.5, "m", date(2024, 3, 1), False, "yes"],
    [None, None, None, True, "no"],
    [None, None, None, None, None],
    [40, "f", datetime(2024, 3, 2, 12), False, "yes"],
]
KINDS = {
    "categories": {"sex": ["f", "m"]},
    "dates": ["admitted"],
    "date_parts": ["days"],
    "reference_date": "2024-03-01",
}


def book(path, rows=ROWS, change=None, name="a.xlsx", sheets=("rows",)):
    made = openpyxl.Workbook()
    made.remove(made.active)
    for sheet in sheets:
        one = made.create_sheet(sheet)
        for row in rows:
            one.append(row)
    if change:
        change(made[sheets[0]])
    made.save(path / name)
    return DataSettings(source="table", path=str(path), **KINDS)


def refused(settings, *parts):
    with pytest.raises(DataError) as error:
        read(settings, "a")
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("by_record", [False, True])
def test_a_sheet_is_read_as_it_is_stored(tmp_path, by_record):
    settings = book(tmp_path).model_copy(update={"by_record": by_record})
    assert silos(settings) == ["a"]
    raw = read(settings, "a")
    assert raw.columns == ("age", "sex=f", "sex=m", "admitted days", "ill")
    nan = np.nan
    wanted = [[50, 1, 0, -1, 1], [61.5, 0, 1, 0, 0], [nan, 0, 0, nan, 1], [40, 1, 0, 1.5, 0]]
    np.testing.assert_array_equal(raw.train.x, wanted)
    assert raw.train.y.tolist() == ["no", "yes", "no", "yes"]


def test_the_sheet_is_the_only_one_or_named(tmp_path):
    settings = book(tmp_path, sheets=("one", "two"))
    refused(settings, "2 sheets", "data.sheet", "'one', 'two'")
    assert len(read(settings.model_copy(update={"sheet": "two"}), "a").train.y) == 4
    refused(settings.model_copy(update={"sheet": "three"}), "no sheet 'three'")


def test_a_formula_without_a_stored_value_is_refused(tmp_path):
    """openpyxl computes nothing, so a formula that it writes has no value."""
    settings = book(tmp_path, change=lambda sheet: sheet.__setitem__("A3", "=A2+11.5"))
    refused(settings, "a.xlsx row 3", "formula in column 1", "save it")
    by_record = read(settings.model_copy(update={"by_record": True}), "a")
    assert np.isnan(by_record.train.x[1, 0])
    assert by_record.train.y.tolist() == ["no", "", "no", "yes"]


def test_by_record_merged_cells_are_missing_and_all_others_are_read(tmp_path):
    settings = book(tmp_path, change=lambda sheet: sheet.merge_cells("A2:A3"))
    raw = read(settings.model_copy(update={"by_record": True}), "a")
    np.testing.assert_array_equal(raw.train.x[:, 0], [50, np.nan, np.nan, 40])


def test_a_formula_with_an_empty_text_is_a_missing_value(tmp_path):
    """As a spreadsheet program stores it: a type and no value. Others are stored with their value, which is read."""
    settings = book(tmp_path, change=lambda sheet: sheet.__setitem__("A3", '=IF(B3="m","",1)'))
    with zipfile.ZipFile(tmp_path / "a.xlsx") as made:
        parts = {name: made.read(name) for name in made.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    for cell, value in ((b'<c r="A3" t="str">', np.nan), (b'<c r="A3">', 17.0)):
        stored = b"<v></v>" if np.isnan(value) else b"<v>17</v>"
        changed = re.sub(
            rb'<c r="A3"[^>]*>(<f>.*?</f>).*?</c>', cell + rb"\1" + stored + b"</c>", parts[sheet]
        )
        assert changed != parts[sheet]
        with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as made:
            for name, content in {**parts, sheet: changed}.items():
                made.writestr(name, content)
        np.testing.assert_equal(read(settings, "a").train.x[1, 0], value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda sheet: sheet.__setitem__("G3", 7), ("row 3", "right of the 5 columns")),
        (lambda sheet: sheet.__setitem__("B1", "age"), ("two columns are named 'age'",)),
        (lambda sheet: sheet.merge_cells("A2:A3"), ("A2:A3 are merged", "unmerge")),
        (lambda sheet: sheet.__setitem__("A3", "#DIV/0!"), ("age holds text ('#DIV/0!')",)),
        (lambda sheet: sheet.__setitem__("A3", time(8, 30)), ("age holds text ('08:30:00')",)),
        (lambda sheet: sheet.insert_rows(1), ("first row is empty",)),
    ],
    ids=["right", "twice", "merged", "error", "time", "empty"],
)
def test_what_cannot_be_read_is_refused(tmp_path, change, parts):
    refused(book(tmp_path, change=change), *parts)


def test_files_that_are_not_excel(tmp_path):
    settings = DataSettings(source="table", path=str(tmp_path))
    (tmp_path / "a.xlsx").write_bytes(b"age,label\n1,2\n")
    refused(settings, "a.xlsx cannot be read")
    (tmp_path / "a.xlsx").rename(tmp_path / "a.xlsm")
    with pytest.raises(DataError, match="no macros"):
        silos(settings)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"</sheetData>", b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>', "17,179,869,184 cells"),
        (b"<worksheet", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><worksheet', "undefined entity"),
        (b"<sheetData>", b"<sheetData>" + b" " * (1 << 21), "at most 1 MB"),
    ],
)  # fmt: skip
def test_a_small_file_that_asks_for_much_is_refused(tmp_path, monkeypatch, old, new, said):
    monkeypatch.setattr(bounded, "MAX_BYTES", 1 << 20)
    book(tmp_path, [["age"], [50]], name="plain.xlsx")
    with (
        zipfile.ZipFile(tmp_path / "plain.xlsx") as plain,
        zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as changed,
    ):
        for name in plain.namelist():
            text = plain.read(name)
            if name.endswith("sheet1.xml"):
                text = text.replace(old, new, 1).replace(
                    b"<v>50</v>", b"<v>&b;</v>" if b"ENTITY" in new else b"<v>50</v>"
                )
            changed.writestr(name, text)
    (tmp_path / "plain.xlsx").unlink()
    with pytest.raises(DataError) as error:
        read(DataSettings(source="table", path=str(tmp_path)), "a")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
