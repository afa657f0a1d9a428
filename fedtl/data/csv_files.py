"""
Reads a CSV file as it is written: every row has the fields that the header names, or the file is refused with the line.

pandas alone would shift the columns of rows that are longer than the header, and fill up those that are shorter.
"""

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from fedtl.errors import DataError

SEPARATORS = ";\t|,"
# Words that pandas reads as a missing value.
MISSING_WORDS = frozenset(
    {
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    }
)


# What a reader takes for a number, and who wrote it may have meant as a code: 007, 1E11.
CODE = re.compile(r"0\d+|\d+[eE]\d+")


@dataclass(frozen=True)
class Dialect:
    """
    How a file is written. ``literal``: the columns in which a word such as "None" is kept as it is; in all others it is a
    missing value. ``texts``: the columns whose cells stay text, such as "007". ``as_text``: those of all columns do, and no row
    decides whether the others can be read. ``names``: the columns whose cells name something, such as a class or a patient: they stay
    text where one of them would be another name as a number. ``target``: the column of numbers that a model predicts.
    """

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    literal: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    as_text: bool = False
    names: frozenset[str] = frozenset()
    target: str = ""


@dataclass(frozen=True)
class CheckedFile:
    """
    ``source``: the path, or the text with empty cells in the place of odd rows. ``missing``: by column, what a missing value is.
    ``codes``: by column, a cell that means something else as a number than as it is written, such as 007; not looked for ``as_text``.
    """

    source: str | io.StringIO
    missing: Mapping[str, Sequence[str]]
    codes: Mapping[str, str]

    def kept(self, dialect: Dialect) -> frozenset[str]:
        """Return the columns that stay text because numbers would be other names, or would be rounded."""
        rounded = {name for name, cell in self.codes.items() if is_rounded(cell)}
        return frozenset(self.codes.keys() & dialect.names | rounded - {dialect.target})


def check_csv(path: str, dialect: Dialect) -> CheckedFile:
    """
    Return what pandas is to read. With ``dialect.as_text`` a row with more or fewer fields than the header becomes empty cells;
    otherwise it is refused. Raises DataError.
    """
    try:
        names, odd, codes = _check_rows(path, dialect)
        if not dialect.as_text and _is_really_utf8(path, dialect.encoding):
            raise DataError(
                f"{path} is UTF-8 text, but data.encoding is {dialect.encoding!r}, which would change its letters; remove data.encoding"
            )
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {dialect.encoding} text (byte {error.object[error.start]:#x}); set data.encoding, such as "
            '"cp1252" (Windows, Latin-1) or "utf-16"'
        ) from error
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    missing = {name: [""] if name in dialect.literal else ["", *MISSING_WORDS] for name in names}
    return CheckedFile(_without_odd_rows(path, dialect, len(names)) if odd else path, missing, codes)


def _is_really_utf8(path: str, encoding: str) -> bool:
    """Return whether a file that is said to be of another encoding has letters beyond ASCII that are valid UTF-8: by chance none are."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return False
    content = Path(path).read_bytes()
    try:
        return not content.isascii() and bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def csv_rows(path: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """
    Yield the fields of each row that is not blank, the header's first, with the number of its line in the file. A line of two quotes is not
    blank: pandas reads it as a row.
    """
    csv.field_size_limit(sys.maxsize)
    encoding = "utf-8-sig" if dialect.encoding.lower() in ("utf-8", "utf8") else dialect.encoding
    with Path(path).open(encoding=encoding, newline="") as file:
        rows = csv.reader(file, delimiter=dialect.delimiter)
        for fields in rows:
            if fields and (len(fields) > 1 or not fields[0] or fields[0].strip()):
                yield rows.line_num, fields


def is_rounded(cell: str) -> bool:
    """Return whether a cell is a whole number that a number of 64 bits rounds."""
    return len(cell) > 15 and cell.lstrip("-").isdecimal() and int(float(cell)) != int(cell)


def _check_rows(path: str, dialect: Dialect) -> tuple[list[str], int, dict[str, str]]:
    """
    Return the names of the columns as pandas gives them, how many rows have another number of fields, and by column a cell that means
    something else as a number: the last that a number rounds, or the first code.
    """
    rows = csv_rows(path, dialect)
    header = next(rows, (0, []))[1]
    if not header:
        raise DataError(f"{path} cannot be read: it is empty")
    if len(header) == 1 and (marks := [mark for mark in SEPARATORS if mark in header[0]]):
        advice = f"set data.delimiter = {_quoted(marks[0])}{_decimal_advice(rows, marks[0])}"
        if dialect.delimiter != Dialect.delimiter:
            advice += (
                f" if all files are so, or write this one with {dialect.delimiter!r}, as data.delimiter says"
            )
        raise DataError(f"{path}: its columns seem to be separated by {marks[0]!r}; {advice}")
    if "\0" in header[0]:
        raise DataError(f'{path} seems to be UTF-16 text; set data.encoding = "utf-16-le" or "utf-16"')
    if len(header) == 1 and len(header[0].split()) > 1 and not dialect.as_text:  # then no row decides this
        first = next(rows, (0, [""]))[1]
        if len(first) == 1 and len(first[0].split()) == len(header[0].split()):
            raise DataError(f'{path}: its columns seem to be separated by spaces; set data.delimiter = " "')
        rows = chain([(2, first)], rows)
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise DataError(f"{path}: two columns are named {twice[0]!r}; rename or remove one of them")
    odd, codes = 0, dict[str, str]()
    for line, fields in rows:
        if len(fields) == len(names):
            if not dialect.as_text:
                for name, cell in zip(names, fields, strict=True):
                    if is_rounded(cell) or (name not in codes and CODE.fullmatch(cell)):
                        codes[name] = cell
            continue
        if not dialect.as_text:
            raise DataError(f"{path} line {line}: {_difference(fields, names)}")
        odd += 1
    return names, odd, codes


def _difference(fields: Sequence[str], names: Sequence[str]) -> str:
    """Return by what a row differs from the header, and what to do."""
    text = f"{len(fields)} fields, but the header names {len(names)} columns"
    if len(names) == 1:
        return f"{text} ({names[0][:40]!r}); remove the lines above the header"
    if len(fields) < len(names):
        return f"{text}; complete the row, with an empty cell for a missing value, or remove it"
    if not any(fields[len(names) :]):
        return f"{text}; remove the separator at the end of the rows, or add one to the header"
    if names[0].startswith("#"):
        return f"{text}, of which the first is {names[0][:40]!r}; remove the lines above the header"
    if len(fields) == len(names) + 1:
        return f"{text}; if the first cell is the row's number or name, give it a name in the header; quote a cell that holds the separator"
    return f"{text}; quote a cell that holds the separator"


def _decimal_advice(rows: Iterator[tuple[int, list[str]]], mark: str) -> str:
    """Return the advice to set ``data.decimal``, where the first row after the header has a decimal comma."""
    cells = ",".join(next(rows, (0, []))[1]).split(mark)
    return ' and data.decimal = ","' if any(has_decimal_comma(cell) for cell in cells) else ""


def has_decimal_comma(cell: str) -> bool:
    """Return whether the cell is a number with a comma in the place of the point."""
    left, comma, right = cell.strip().strip('"').lstrip("+-").partition(",")
    return bool(comma) and left.isdigit() and right.isdigit()


def may_be_thousands(cell: str) -> bool:
    """Return whether the cell is a number whose commas can separate thousands, such as 12,345."""
    return bool(re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", cell.strip().strip('"')))


def _quoted(mark: str) -> str:
    return '"\\t"' if mark == "\t" else f'"{mark}"'


def _without_odd_rows(path: str, dialect: Dialect, width: int) -> io.StringIO:
    """Return the file's text, with empty cells in the place of rows with another number of fields."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=dialect.delimiter)
    writer.writerows(
        fields if len(fields) == width else [""] * width for _, fields in csv_rows(path, dialect)
    )
    text.seek(0)
    return text
