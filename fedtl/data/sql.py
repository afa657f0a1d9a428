"""
The rows that a query finds in an SQLite database or, by DuckDB, in a Parquet file (``parquet_query``): one file whose query names the silo of each row (``data.silo_column``) or takes the
silo's name as ``:silo``, or a folder with one file for each silo.

The query can only read this file: SQLite opens it read-only, and refuses every action but reading before it runs.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fedtl.data import parquet_query
from fedtl.data.frame import column_of, rows_of_frame
from fedtl.data.settings import DataSettings
from fedtl.data.source import Raw
from fedtl.data.table import with_own_labels
from fedtl.data.typed_rows import as_frame
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".sqlite", ".sqlite3", ".db", parquet_query.SUFFIX)
ABOUT = "a query (data.query) on an SQLite or Parquet file, with a silo column or the parameter :silo, or on a folder of one file a silo"
QUOTED = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)""", re.DOTALL
)  # texts, quoted names and comments of a query
PARAMETER = re.compile(r":silo\b")
CHANCE = re.compile(
    r"\b(random|randomblob|uuid|gen_random_uuid|setseed)\s*\(|\b(tablesample|using\s+sample)\b", re.IGNORECASE
)
PARENTHESES = re.compile(r"\([^()]*\)")
WAL = 2  # bytes 18 and 19 of the header: how the file is written and read
READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
FORBIDDEN_FUNCTIONS = ("load_extension", "fts3_tokenizer")
MAX_CELLS = 50_000_000  # of a query


def takes_silo(query: str) -> bool:
    """Return whether the query has the parameter ``:silo``, outside of quoted texts and comments."""
    return PARAMETER.search(QUOTED.sub(" ", query)) is not None


def with_dollar(query: str) -> str:
    """Return the query with the parameter as DuckDB writes it, ``$silo``; quoted texts and comments stay as they are."""
    parts, end = list[str](), 0
    for quoted in QUOTED.finditer(query):
        parts += [PARAMETER.sub("$silo", query[end : quoted.start()]), quoted[0]]
        end = quoted.end()
    return "".join([*parts, PARAMETER.sub("$silo", query[end:])])


def orders_rows(query: str) -> bool:
    """Return whether the rows that the query gives have an order: ``ORDER BY`` within parentheses orders those of a part only."""
    outer, changed = QUOTED.sub(" ", query), 1
    while changed:
        outer, changed = PARENTHESES.subn(" ", outer)
    return re.search(r"\border\s+by\b", outer, re.IGNORECASE) is not None


def draws_rows(query: str) -> bool:
    """Return whether the query draws random numbers or rows, and so gives other rows each time."""
    return CHANCE.search(QUOTED.sub(" ", query)) is not None


def silos(settings: DataSettings) -> Sequence[str]:
    path = Path(settings.path)
    if path.is_dir():
        names = sorted(file.stem for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not names:
            raise DataError(f"data.path: no {' or '.join(SUFFIXES)} file in {path}")
        if len(set(names)) < len(names):
            raise DataError(f"data.path: {path} has two files of one silo; remove one")
        return names
    if takes_silo(settings.query):
        return sorted({*settings.silos, *settings.late})
    if settings.deal is not None:
        return [path.stem]
    column = column_of(_rows(path, settings, ""), settings.silo_column, str(path), "data.silo_column")
    if missing := int(column.isna().sum()):
        raise DataError(
            f"{path}: {missing} rows have no value in {settings.silo_column!r}; name their silo, or leave them out with WHERE"
        )
    return sorted(map(str, column.unique()))


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. Raises DataError."""
    path = Path(settings.path)
    if path.is_dir():
        path = next(
            file for file in sorted(path.iterdir()) if file.stem == name and file.suffix.lower() in SUFFIXES
        )
    rows, where = _rows(path, settings, name), f"{path}, silo {name}"
    if settings.silo_column:
        column = column_of(rows, settings.silo_column, str(path), "data.silo_column")
        rows = rows[column.map(str) == name]
    if not len(rows):
        raise DataError(f"{where}: data.query finds no row; correct data.query or data.silos")
    return rows_of_frame(*with_own_labels(rows, settings, name, where), where)


def _rows(path: Path, settings: DataSettings, name: str) -> "pd.DataFrame":
    """Return what the query finds. ``name``: of the silo, where the query has the parameter. Raises DataError."""
    try:
        stat = path.stat()
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if header.startswith(b"SQLite format 3\0") and WAL in header[18:]:
        raise DataError(
            f"{path} is in WAL mode, so reading it writes files into its folder; read a copy: sqlite3 {path.name} \"VACUUM INTO 'copy.db'\""
        )
    parameter = name if takes_silo(settings.query) else ""
    names, rows = _found(str(path), stat.st_mtime_ns, stat.st_size, settings.query, parameter)
    return as_frame(rows, names, settings.by_record)


@lru_cache(maxsize=4)  # every silo of one file asks for it
def _found(
    path: str, changed: int, size: int, query: str, silo: str
) -> tuple[list[str], Sequence[Sequence[object]]]:
    """Return the names of the columns, and the rows. Raises DataError."""
    rows: Sequence[Sequence[object]]
    if path.lower().endswith(parquet_query.SUFFIX):
        names, rows = parquet_query.found_by(path, with_dollar(query), silo, MAX_CELLS)
    else:
        names, rows = _found_by_sqlite(path, query, silo)
    if len(names) * len(rows) > MAX_CELLS:
        raise DataError(
            f"data.query on {path} finds more than {MAX_CELLS:,} values; select fewer rows or columns"
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(f"data.query on {path} has two columns {twice[0]!r}; name them with AS")
    binary = [
        name for name, cell in zip(names, rows[0] if rows else (), strict=False) if isinstance(cell, bytes)
    ]
    if binary:
        raise DataError(
            f"data.query on {path}: the column {binary[0]!r} holds binary values, which cannot be inputs; leave it out"
        )
    return names, rows


def _found_by_sqlite(path: str, query: str, silo: str) -> tuple[list[str], Sequence[Sequence[object]]]:
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            connection.set_authorizer(_allowed)
            parameters: Mapping[str, str] = {"silo": silo} if silo else {}
            cursor = connection.execute(query, parameters)
            names = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchmany(MAX_CELLS // max(1, len(names)) + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        reason = str(error)
        if "not authorized" in reason or "prohibited" in reason:
            reason += "; it may only read this file: write one SELECT"
        raise DataError(f"data.query on {path}: {reason}") from error
    return names, rows


def _allowed(
    action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
) -> int:
    """Return whether SQLite may do this: read, and compute with built-in functions."""
    function = action == sqlite3.SQLITE_FUNCTION and second not in FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if action in READING or function else sqlite3.SQLITE_DENY
