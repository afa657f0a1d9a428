"""
A query on Parquet files, by DuckDB: the file's rows are the table ``rows``.

pyarrow opens the file, and DuckDB, which may reach no file, no network and no extension, sees what pyarrow reads. So a query cannot write,
and can read nothing else.
"""

import datetime
from collections.abc import Sequence
from decimal import Decimal
from types import ModuleType
from typing import Any

from fedtl.errors import DataError, first_line

SUFFIX = ".parquet"
TABLE = "rows"
CLOSED = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",  # otherwise a name in a query could be that of a Python object
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "threads": "1",
}
Cell = float | int | str | bytes | None


def found_by(path: str, query: str, silo: str, most: int) -> tuple[list[str], list[Sequence[Cell]]]:
    """
    Return the names of the columns, and the rows, of which there are at most ``most`` cells and one row more. ``query``: with the
    parameter ``$silo`` where ``silo`` is not empty. Raises DataError.
    """
    duckdb = _duckdb()
    with duckdb.connect(":memory:", config=CLOSED) as connection:
        try:
            connection.register(TABLE, _opened(path))
            connection.execute("SET lock_configuration = true")
            statements = duckdb.extract_statements(query)
            if [one.type.name for one in statements] != ["SELECT"]:
                raise DataError(
                    f"data.query on {path} is not a single SELECT; write one SELECT ... FROM {TABLE}"
                )
            cursor = connection.execute(query, {"silo": silo} if silo else None)
            names = [str(column[0]) for column in cursor.description or ()]
            rows = cursor.fetchmany(most // max(1, len(names)) + 1)
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"data.query on {path}: {reason[:300]}; the table is called {TABLE}, and only this file can be read"
            ) from error
    return names, [[_plain(cell, name, path) for cell, name in zip(row, names, strict=True)] for row in rows]


def _opened(path: str) -> Any:
    """Return the file as pyarrow's data set. Raises DataError."""
    try:
        import pyarrow
        import pyarrow.dataset
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'fedtl[parquet]'") from error
    try:
        return pyarrow.dataset.dataset(path, format="parquet")
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)[:200]}") from error


def _plain(cell: object, name: str, path: str) -> Cell:
    """Return a cell as SQLite and CSV files have it. Raises DataError for lists and structures."""
    match cell:
        case bool():
            return int(cell)
        case None | float() | int() | str() | bytes():
            return cell
        case Decimal():
            return float(cell)
        case datetime.datetime() | datetime.date() | datetime.time():
            return cell.isoformat()
    raise DataError(
        f"data.query on {path}: the column {name!r} holds values of type {type(cell).__name__}, which cannot be inputs; leave it out, or "
        "CAST it to a number or a text"
    )


def _duckdb() -> ModuleType:
    try:
        import duckdb
    except ImportError as error:
        raise DataError("data.query on Parquet needs DuckDB: pip install 'fedtl[duckdb]'") from error
    return duckdb
