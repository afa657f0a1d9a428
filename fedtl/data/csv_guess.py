"""Guesses how CSV files are written. ``fedtl new`` proposes it; a reader of a run takes what the settings say, and guesses nothing."""

import codecs
import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from fedtl.data.csv_files import SEPARATORS, Dialect, csv_rows, has_decimal_comma, may_be_thousands
from fedtl.errors import DataError

ROWS_LOOKED_AT = 200
MARKS = (",", *SEPARATORS.replace(",", ""))
WINDOWS = "cp1252"  # has all letters of Latin-1


def guess_dialect(files: Sequence[Path]) -> Dialect:
    """Return how all these files are written. Raises DataError where two are written differently."""
    encodings = {file: _encoding(file) for file in files}
    encoding = next((one for one in encodings.values() if one != "utf-8"), "utf-8")
    guesses = {file: _marks(file, encodings[file]) for file in files}
    _check_alike({file: mark for file, (mark, _) in guesses.items()}, "separated by")
    decimals = {file: mark for file, (_, mark) in guesses.items() if mark is not None}
    _check_alike(decimals, "with the decimal mark")
    delimiter = next((mark for mark, _ in guesses.values()), ",")
    return Dialect(delimiter, next(iter(decimals.values()), "."), encoding)


def _check_alike(marks: dict[Path, str], what: str) -> None:
    if len(set(marks.values())) > 1:
        first, *others = marks
        other = next(file for file in others if marks[file] != marks[first])
        raise DataError(
            f"{first.name} is {what} {marks[first]!r} and {other.name} {what} {marks[other]!r}; save all files of the folder in the same way"
        )


def _encoding(file: Path) -> str:
    """Return the encoding of a text: UTF-8 where it is valid, UTF-16 by its first two bytes, otherwise that of Windows."""
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return WINDOWS
    return "utf-8"


def _marks(file: Path, encoding: str) -> tuple[str, str | None]:
    """
    Return the separator with which the rows have the most columns, the same number in each where there is such a one; and the decimal
    mark, None where no column of numbers shows it.
    """
    best: tuple[bool, int] = (False, 1)
    chosen, rows = ",", list[list[str]]()
    for mark in MARKS:
        made = _first_rows(file, Dialect(mark, encoding=encoding))
        widths = {len(fields) for fields in made}
        rank = (len(widths) == 1, len(made[0])) if made else best
        if rank[1] > 1 and rank > best:
            best, chosen, rows = rank, mark, made
    return chosen, _decimal(rows)


def _first_rows(file: Path, dialect: Dialect) -> list[list[str]]:
    try:
        return [fields for _, fields in islice(csv_rows(str(file), dialect), ROWS_LOOKED_AT)]
    except (csv.Error, ValueError):  # the reader says what is wrong with the file
        return []


def _decimal(rows: Sequence[Sequence[str]]) -> str | None:
    """
    Return the decimal mark of the columns that hold numbers only; None where none of them has a fraction. Of a column whose commas can all
    separate thousands nothing is guessed: read with a decimal comma, 12,345 would be 12.345.
    """
    for column in zip(*rows[1:], strict=False):
        cells = [cell.strip() for cell in column if cell.strip()]
        if not cells or not all(_may_be_number(cell) for cell in cells):
            continue
        commas = [cell for cell in cells if has_decimal_comma(cell)]
        if commas and not all(map(may_be_thousands, commas)):
            return ","
        if any("." in cell for cell in cells):
            return "."
    return None


def _may_be_number(cell: str) -> bool:
    return has_decimal_comma(cell) or may_be_thousands(cell) or _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
