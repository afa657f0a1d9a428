"""
Reads one sheet of an Excel file as it is stored: numbers, texts, truth values and dates. Formulas are not computed: the value
that the program stored with each is read. Macros are not read at all.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl._util.counted import counted
from fedtl.data.bounded import check_bytes, check_file_size
from fedtl.errors import DataError, first_line

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

Cell = object  # a number, a text, a truth value, a date or a time; None where empty
MAX_CELLS = (
    50_000_000  # of a sheet, empty ones between others included: one cell in its last corner makes 17 billion
)
INSTALL = "Excel files need openpyxl: pip install 'fedtl[excel]'"


def read_sheet(path: str, sheet: str, as_text: bool) -> tuple[list[str], list[list[Cell]], tuple[str, ...]]:
    """
    Return the names of the columns and the rows of a sheet, "" for the only one, and lines on what Excel hides and is read. ``as_text``: a row with a formula that has no
    stored value, or with cells beyond the header, becomes empty cells, and no row decides whether the others can be read;
    otherwise it is refused. Raises DataError.
    """
    shown = _sheet(path, sheet, stored=True, merged=as_text)
    values, formulas = _cells(shown), _cells(_sheet(path, sheet, stored=False, merged=as_text))
    header = next(values, [])
    next(formulas, None)
    while header and header[-1] is None:
        header = header[:-1]
    if not header:
        raise DataError(f"{path}: its first row is empty; put the names of the columns there")
    names = [f"Unnamed: {n}" if name is None else str(name) for n, name in enumerate(header)]
    if twice := [name for n, name in enumerate(names) if name in names[:n]]:
        raise DataError(f"{path}: two columns are named {twice[0]!r}; rename or remove one of them")
    rows: list[list[Cell]] = []
    for number, (row, written) in enumerate(zip(values, formulas, strict=True), start=2):
        if all(cell is None for cell in written):
            continue  # Excel keeps rows that have a format and no value
        problem = _problem(row, written, len(names))
        if problem and not as_text:
            raise DataError(f"{path} row {number}: {problem}")
        rows.append([None if problem or cell == "" else cell for cell in row[: len(names)]])
    return names, rows, tuple(_hidden(shown, names))


def _hidden(sheet: "Worksheet", names: Sequence[str]) -> Iterator[str]:
    """Yield a line for rows, and one for columns, that Excel does not show, as those that a filter leaves out."""
    hidden = [
        number for number, row in sheet.row_dimensions.items() if row.hidden and 1 < number <= sheet.max_row
    ]
    if hidden:
        yield f"{counted(len(hidden), 'row')} that Excel hides, such as row {min(hidden)}, are read as the others"
    columns = [
        name
        for number, name in enumerate(names, start=1)
        if any(one.hidden and one.min <= number <= one.max for one in sheet.column_dimensions.values())
    ]
    if columns:
        yield f"columns that Excel hides are read as the others ({', '.join(map(repr, columns[:6]))})"


def _problem(row: Sequence[Cell], written: Sequence[Cell], width: int) -> str:
    """Return why a row cannot be read, "" if it can. ``written``: its cells with formulas in place of their values."""
    if any(cell is not None for cell in written[width:]):
        return f"it has a cell to the right of the {width} columns that the first row names; name its column, or clear it"
    for number, (value, formula) in enumerate(zip(row, written, strict=True), start=1):
        if value is None and formula is not None:
            return (
                f"the formula in column {number} has no stored value; open the file in Excel or LibreOffice and save it, or "
                "replace the formula by its value"
            )
    return ""


def _sheet(path: str, sheet: str, stored: bool, merged: bool) -> "Worksheet":
    """
    Return a sheet. ``stored``: formulas as the values stored with them. ``merged``: whether cells may be merged, of
    which all but the first are empty. Raises DataError.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise DataError(f"{path}: {INSTALL}") from error
    check_file_size(Path(path))
    try:
        with Path(path).open("rb") as stream:  # by a path, openpyxl leaves a file open that it cannot read
            with zipfile.ZipFile(stream) as packed:
                check_bytes(Path(path), sum(part.file_size for part in packed.infolist()))
            book = load_workbook(stream, data_only=stored, keep_links=False)
    except Exception as error:  # whatever a part of the file that the library does not know makes it raise
        reason = first_line(error)
        raise DataError(
            f"{path} cannot be read as an Excel file: {reason}; save it again as .xlsx"
        ) from error
    names = [one.title for one in book.worksheets]
    if not names or (sheet and sheet not in names) or (not sheet and len(names) > 1):
        wanted = f"no sheet {sheet!r}" if sheet else f"{len(names)} sheets"
        raise DataError(f"{path} has {wanted}; set data.sheet to one of {', '.join(map(repr, names[:12]))}")
    chosen = book[sheet or names[0]]
    if chosen.merged_cells.ranges and not merged:
        area = sorted(map(str, chosen.merged_cells.ranges))[0]
        raise DataError(
            f"{path}: the cells {area} are merged, so all but one of them are empty; unmerge them"
        )
    if (cells := chosen.max_row * chosen.max_column) > MAX_CELLS:
        raise DataError(
            f"{path}: its last cell is in row {chosen.max_row} and column {chosen.max_column}, so it has {cells:,} cells, and fedtl reads at "
            f"most {MAX_CELLS:,}; delete the empty rows and columns, or save it as a CSV file"
        )
    return chosen


def _cells(sheet: "Worksheet") -> Iterator[list[Cell]]:
    """Yield the cells of each row."""
    for row in sheet.iter_rows():
        # Of a formula that gives an empty text, the type is stored and no value.
        yield ["" if cell.value is None and cell.data_type == "str" else cell.value for cell in row]
