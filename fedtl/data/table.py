"""CSV or Parquet files: one file per silo, or one file with a column that names the silo."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl.data import frame
from fedtl.data.frame import column_of, rows_of_frame
from fedtl.data.settings import DataSettings
from fedtl.data.source import Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")
ABOUT = "CSV or Parquet: one file per silo, or one file with a silo column; missing values imputed, columns scaled"


def silos(settings: DataSettings) -> Sequence[str]:
    path = Path(settings.path)
    if path.is_dir() and settings.silo_column:
        raise DataError(f"data.path: {path} is a folder with one file per silo, so remove data.silo_column")
    if not path.is_dir() and settings.partition is not None:
        return [path.stem]
    if not path.is_dir() and not settings.silo_column:
        raise DataError(
            f"data.path: {path} is one file; set data.silo_column to the column that names the silo"
        )
    if settings.silo_column:
        column = column_of(_load(path, settings), settings.silo_column, str(path), "data.silo_column")
        if missing := int(column.isna().sum()):
            raise DataError(
                f"{path}: {missing} rows have no value in {settings.silo_column!r}; name their silo or remove them"
            )
        return sorted(map(str, column.unique()))
    names = sorted(entry.stem for entry in path.iterdir() if entry.suffix in SUFFIXES)
    if not names:
        raise DataError(f"data.path: no {' or '.join(SUFFIXES)} file in {path}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"data.path: {path} has silo {twice[0]} both as .csv and as .parquet; remove one")
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. Raises DataError."""
    rows, where = _rows_of(settings, name)
    return rows_of_frame(rows, settings, where)


def input_columns(settings: DataSettings, name: str) -> list[str]:
    """Return the columns of one silo that become inputs, in the order of its file. Raises DataError."""
    return frame.input_columns(_rows_of(settings, name)[0], settings)


def learns(settings: DataSettings) -> frozenset[str]:
    """
    A row's domain, or its cell of the split column, decides whether it is trained on; everything else is declared or in
    the file's header.
    """
    return frozenset({"split"}) if settings.target_domain or settings.split_column else frozenset()


def _rows_of(settings: DataSettings, name: str) -> tuple["pd.DataFrame", str]:
    """Return one silo's rows, and where they are, for messages."""
    path = Path(settings.path)
    if settings.silo_column:
        whole = _load(path, settings)
        column = column_of(whole, settings.silo_column, str(path), "data.silo_column")
        return whole[column.map(str) == name], f"{path}, silo {name}"
    if not path.is_dir():
        return _load(path, settings), str(path)
    for suffix in SUFFIXES:
        if (file := path / f"{name}{suffix}").exists():
            return _load(file, settings), str(file)
    raise DataError(f"data.path: no file for silo {name} in {path}")


def _load(path: Path, settings: DataSettings) -> "pd.DataFrame":
    """Return the file. With ``by_record``, cells of a CSV stay text; otherwise one cell decides how its column is read."""
    return load_frame(str(path), settings.by_record)


def load_frame(path: str, as_text: bool = False) -> "pd.DataFrame":
    """
    Return the whole file; it is read again only after it changed, since every silo of one file asks for it. ``as_text``:
    keep the cells of a CSV as text. Raises DataError.
    """
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return _parse(path, stat.st_mtime_ns, stat.st_size, as_text)


@lru_cache(maxsize=4)
def _parse(path: str, changed: int, size: int, as_text: bool) -> "pd.DataFrame":
    import pandas as pd

    try:
        if path.endswith(".parquet"):
            table = pd.read_parquet(path)
        else:
            table = _csv_as_text(path) if as_text else pd.read_csv(path, low_memory=False)
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'fedtl[parquet]'") from error
    except (ValueError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise DataError(f"{path} cannot be read: {reason}") from error
    header = str(table.columns[0]) if len(table.columns) == 1 else ""
    if separators := [mark for mark in ";\t|" if mark in header]:
        raise DataError(f"{path}: its columns seem to be separated by {separators[0]!r}; fedtl reads commas")
    return table


def _csv_as_text(path: str) -> "pd.DataFrame":
    """Read without an index column: otherwise an extra comma in the first row would move the cells of all rows."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        return pd.read_csv(path, low_memory=False, dtype=str, index_col=False)
