"""Names and cells that a person reads as one thing, and a program as two; and what an error advises about them."""

import unicodedata
from datetime import date

import pytest
from openpyxl import Workbook

from fedtl.data import table
from fedtl.data.cells import DECORATED_NUMBER
from fedtl.data.settings import DataSettings
from fedtl.data.spellings import shown_apart, spelled_alike
from fedtl.errors import DataError
from tests.commands import fedtl
from tests.experiments import ROUNDS_ONLY

SIZE = "größe"
FORMS = [unicodedata.normalize(form, SIZE) for form in ("NFC", "NFD")]


@pytest.mark.parametrize("pair", [FORMS, ["maligne", "\u200fmaligne"], ["pos", "pos\ufeff"], ["Ⅲ", "III"]])
def test_labels_that_look_alike_may_be_one_label(pair):
    assert spelled_alike(pair) == [tuple(sorted(pair))]


def test_names_that_look_alike_are_shown_apart():
    assert shown_apart(FORMS) == ["'gr\\xf6\\xdfe'", "'gro\\u0308\\xdfe'"]
    assert shown_apart(["Age", "größe"]) == ["'Age'", "'größe'"]


@pytest.mark.parametrize("names", [FORMS, ["Age", "age"], ["body mass", "body_mass"]])
def test_columns_of_two_silos_that_differ_in_spelling_are_named_together(tmp_path, names):
    folder = tmp_path / "rows"
    folder.mkdir()
    for silo, name in zip("ab", names, strict=True):
        lines = [f"{name},z,label", *(f"{row / 7},{row % 5},{row % 2}" for row in range(30))]
        (folder / f"{silo}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    experiment = tmp_path / "exp.toml"
    experiment.write_text(
        f'[data]\nsource = "table"\npath = "{folder}"\nlabel = "label"\n[model]\nname = "mlp"\n'
    )
    sets = [word for one in ROUNDS_ONLY for word in ("--set", one)]
    done = fedtl("run", experiment, "--out", tmp_path / "out", *sets)
    assert done.returncode == 2
    assert "in one way" in done.stderr
    assert all(f"silo {silo}" in done.stderr for silo in "ab")
    assert all(name in done.stderr for name in shown_apart(names))
    assert not (tmp_path / "out").exists()


def book(folder, cells, post=lambda book: None):
    made = Workbook()
    made.active.append(["x", "when", "label"])
    for row, cell in enumerate(cells):
        made.active.append([row / 3, cell, row % 2])
    post(made)
    made.save(folder / "a.xlsx")
    return DataSettings(source="table", path=str(folder), label="label", dates=["when"])


@pytest.mark.parametrize("cells", [[45000, 45001, 45002], [date(2024, 1, 1), 45001, date(2024, 1, 3)]])
def test_a_date_that_excel_counts_in_days_is_named_as_such(tmp_path, cells):
    with pytest.raises(DataError, match="number '4500[01]'.*Excel"):
        table.read(book(tmp_path, cells), "a")


def test_a_book_that_its_library_cannot_read_ends_in_one_line(tmp_path):
    """openpyxl fails with an AttributeError at a sheet of charts that holds none."""
    settings = book(tmp_path, [date(2024, 1, 1)], lambda made: made.create_chartsheet("chart"))
    with pytest.raises(DataError, match="a.xlsx.*Excel"):
        table.read(settings, "a")


@pytest.mark.parametrize("cell", ["(1,250.50)", "12.50-", "0.70D+02", "- 3", "<0.5", "1'234.5", "7 %"])
def test_a_number_as_accountants_and_old_programs_write_it(cell):
    assert DECORATED_NUMBER.fullmatch(cell)


@pytest.mark.parametrize("cell", ["5-9", "6/8", "0x7d", "E11", "trace"])
def test_what_is_no_number(cell):
    assert not DECORATED_NUMBER.fullmatch(cell)


def test_the_advice_on_a_decimal_comma_fits_the_kind_of_file(tmp_path):
    made = Workbook()
    made.active.append(["x", "label"])
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text('x,label\n"0,5",0\n"1,5",1\n')
    for row in range(4):
        made.active.append([f"{row},5", row % 2])
    made.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="store numbers, not text"):
        table.read(DataSettings(source="table", path=str(tmp_path), label="label"), "a")
    with pytest.raises(DataError, match="set data.decimal"):
        table.read(DataSettings(source="table", path=str(tmp_path / "csv"), label="label"), "a")
