"""
CSV or Parquet: one file a silo, or one file with a silo column. Empty cells are missing values.

Columns of text need their categories declared (``categories = { sex = ["f", "m"] }``), because the silos must
agree on them without looking at each other's rows; each becomes a column of 0 and 1 per category.
"""

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")


def silos(settings: DataSettings) -> Sequence[str]:
    path = Path(settings.path)
    if path.is_dir() and settings.silo_column:
        raise DataError(f"data.path: {path} is a folder with a file a silo, so leave data.silo_column out")
    if not path.is_dir() and not settings.silo_column:
        raise DataError(
            f"data.path: {path} is one file; data.silo_column must say which column names the silo"
        )
    if settings.silo_column:
        column = _column(_frame(path, settings), settings.silo_column, str(path), "data.silo_column")
        if missing := int(column.isna().sum()):
            raise DataError(f"{path}: {missing} rows have no value in {settings.silo_column!r}")
        return sorted(map(str, column.unique()))
    found = sorted(entry.stem for entry in path.iterdir() if entry.suffix in SUFFIXES)
    if not found:
        raise DataError(f"data.path: no {' or '.join(SUFFIXES)} file in {path}")
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise DataError(f"data.path: {path} has silo {twice[0]} both as .csv and as .parquet; remove one")
    return found


def read(settings: DataSettings, name: str) -> Raw:
    """Raises DataError for a column that is missing, of text without categories, or not finite."""
    frame, where = _rows_of(settings, name)
    columns, x = features(frame, settings, where)
    units = _units(frame, settings, where)
    if not settings.target_domain:
        return Raw(Part(x, _labels(frame, settings, where), units), columns=columns)
    domain = _column(frame, settings.domain_column, where, "data.domain_column")
    new = (domain.map(str) == settings.target_domain).to_numpy(bool)
    if not new.any() or new.all():
        value = f"{settings.domain_column} = {settings.target_domain!r}"
        count = f"{new.sum()} of {len(new)} rows have {value}"
        raise DataError(f"{where}: {count}; a silo needs rows of both domains")
    own = None if units is None else units[~new]
    train = Part(x[~new], _labels(frame[~new], settings, where), own)
    target, test = x[new], None
    if not _column(frame, settings.label, where, "data.label")[new].isna().any():
        test = Part(target, _labels(frame[new], settings, where))
    return Raw(train, target=target, target_test=test, columns=columns)


def input_columns(settings: DataSettings, name: str) -> list[str]:
    """The columns of one silo that a model would see, as they stand in its file."""
    frame, _ = _rows_of(settings, name)
    return _wanted(frame, settings)


def _wanted(frame: "pd.DataFrame", settings: DataSettings) -> list[str]:
    aside = {settings.label, settings.silo_column, settings.domain_column, settings.unit_column}
    return settings.columns or [str(column) for column in frame.columns if column not in aside]


def _rows_of(settings: DataSettings, name: str) -> tuple["pd.DataFrame", str]:
    """One silo's rows, and where they are for a message."""
    path = Path(settings.path)
    if settings.silo_column:
        whole = _frame(path, settings)
        return whole[whole[settings.silo_column].map(str) == name], f"{path}, silo {name}"
    found = [path / f"{name}{suffix}" for suffix in SUFFIXES if (path / f"{name}{suffix}").exists()]
    if not found:
        raise DataError(f"data.path: no file for silo {name} in {path}")
    return _frame(found[0], settings), str(found[0])


def _frame(path: Path, settings: DataSettings) -> "pd.DataFrame":
    """Record by record, cells of a CSV are text: else one cell would decide how all others of its column are read."""
    return load_frame(str(path), settings.by_record)


def learns(settings: DataSettings) -> frozenset[str]:
    """A row says by its domain whether it is trained on; everything else is declared or in the file's header."""
    return frozenset({"split"}) if settings.target_domain else frozenset()


def features(frame: "pd.DataFrame", settings: DataSettings, where: str) -> tuple[tuple[str, ...], Array]:
    """The names and the values [N, columns] (float32, NaN where missing) that a model sees."""
    wanted = _wanted(frame, settings)
    if not wanted:
        raise DataError(f"{where} has no column besides {settings.label!r}")
    for name in settings.categories:
        _column(frame, name, where, "data.categories")
    made: dict[str, Array] = {}
    for name in wanted:
        column = _column(frame, name, where, "data.columns")
        if name in settings.categories:
            made |= _indicators(column, settings.categories[name], settings, where)
        elif settings.by_record:
            made[str(name)] = _values(column).astype(np.float32)
        else:
            made[str(name)] = _numbers(column, where)
    return tuple(made), np.stack(list(made.values()), 1)


def _indicators(
    column: "pd.Series", known: Sequence[str], settings: DataSettings, where: str
) -> dict[str, Array]:
    """A column of 0 and 1 a category; a missing cell is in none, and, record by record, one of no declared category."""
    text = [None if cell != cell or cell is None else _spelled(cell) for cell in column.tolist()]
    if settings.by_record:
        text = [None if cell is None else _cell(cell) for cell in text]
        return {
            f"{column.name}={value}": np.array([cell == _cell(value) for cell in text], np.float32)
            for value in known
        }
    if unknown := {cell for cell in text if cell is not None} - set(known):
        odd = sorted(unknown)[0]
        raise DataError(
            f"{where}: {column.name} holds {odd!r}, not in data.categories.{column.name} = {known}"
        )
    return {
        f"{column.name}={value}": np.array([cell == value for cell in text], np.float32) for value in known
    }


def _numbers(column: "pd.Series", where: str) -> Array:
    import pandas as pd

    name, seen = column.name, column.dropna()
    if not len(seen):
        return np.full(len(column), np.nan, np.float32)
    if not pd.api.types.is_numeric_dtype(column):
        example = next((cell for cell in seen if not _is_number(cell)), seen.iloc[0])
        odd = sum(not _is_number(cell) for cell in seen)
        kinds = sorted(map(_spelled, seen.unique()))
        if odd < len(seen) / 2:
            way = "leave such cells empty: empty cells are missing values"
        elif len(kinds) > 20:
            way = f"with {len(kinds)} different values; list the columns to use, without it, in data.columns"
        else:
            way = f"declare data.categories.{name} = {kinds}, or list the columns to use in data.columns"
        raise DataError(
            f"{where}: {name} holds text ({_spelled(example)!r}) in {odd} of {len(seen)} rows; {way}"
        )
    values = np.asarray(column.to_numpy(np.float64, na_value=np.nan))
    if count := int((np.abs(values) > np.finfo(np.float32).max).sum()):
        raise DataError(f"{where}: {name} holds {count} infinite values")
    return values.astype(np.float32)


def _values(column: "pd.Series") -> Array:
    """Each cell as a number, NaN where it is none that float32 can hold; no cell changes how another is read."""
    import pandas as pd

    values: Array = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.abs(values) <= np.finfo(np.float32).max, values, np.nan)


def _cell(text: str) -> str:
    """A cell by itself: 3.0 and 3 are one value."""
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 2**53 else text


def _labels_by_record(column: "pd.Series", settings: DataSettings) -> Array:
    """Each label by itself; one that is missing, or no number where numbers are asked for, is no label: NaN, or ""."""
    if settings.task == "regression":
        return _values(column)
    if settings.positive_above is not None:
        values = _values(column)
        return np.where(np.isnan(values), "", (values > settings.positive_above).astype(int).astype(str))
    return np.array(["" if cell != cell or cell is None else _cell(_spelled(cell)) for cell in column], str)


def _labels(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array:
    """Numbers as they are, anything else as text."""
    import pandas as pd

    column = _column(frame, settings.label, where, "data.label")
    if settings.by_record:
        return _labels_by_record(column, settings)
    if missing := int(column.isna().sum()):
        raise DataError(f"{where}: {missing} of {len(column)} rows have no {settings.label!r}; remove them")
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        if settings.positive_above is not None:
            raise DataError(f"{where}: {settings.label} holds text, so data.positive_above has no meaning")
        return np.array([_spelled(cell) for cell in column], str)
    values: Array = column.to_numpy()
    if settings.positive_above is None:
        return values
    return (values.astype(np.float64) > settings.positive_above).astype(np.int64)


def _units(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array | None:
    """Whose each row is, as text; every row has to say."""
    if not settings.unit_column:
        return None
    column = _column(frame, settings.unit_column, where, "data.unit_column")
    if missing := int(column.isna().sum()):
        raise DataError(
            f"{where}: {missing} of {len(column)} rows have no {settings.unit_column!r}; remove them"
        )
    return np.array([_spelled(cell) for cell in column], str)


def _column(frame: "pd.DataFrame", name: str, where: str, key: str) -> "pd.Series":
    if name not in frame.columns:
        raise DataError(
            f"{key}: {where} has no column {name!r}; it has {', '.join(map(str, frame.columns[:12]))}"
        )
    return frame[name]


def load_frame(path: str, as_text: bool = False) -> "pd.DataFrame":
    """
    The whole file, read again only where it changed: every silo of one file asks for it. ``as_text``: the cells of a CSV
    as they stand. Raises DataError.
    """
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return _load(path, stat.st_mtime_ns, stat.st_size, as_text)


@lru_cache(maxsize=4)
def _load(path: str, changed: int, size: int, as_text: bool) -> "pd.DataFrame":
    import pandas as pd

    try:
        if path.endswith(".parquet"):
            frame = pd.read_parquet(path)
        else:
            frame = _csv_as_text(path) if as_text else pd.read_csv(path, low_memory=False)
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'fedtl[parquet]'") from error
    except (ValueError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise DataError(f"{path} cannot be read: {reason}") from error
    only = str(frame.columns[0]) if len(frame.columns) == 1 else ""
    if found := [mark for mark in ";\t|" if mark in only]:
        raise DataError(f"{path}: its columns look separated by {found[0]!r}; fedtl reads commas")
    return frame


def _csv_as_text(path: str) -> "pd.DataFrame":
    """Without an index column: else one comma too many in the first row would move the cells of all rows."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        return pd.read_csv(path, low_memory=False, dtype=str, index_col=False)


def _spelled(cell: object) -> str:
    """As it stands in the file: a column with empty cells makes floats of whole numbers."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


ABOUT = (
    "CSV or Parquet: one file a silo, or one file with a silo column; missing values imputed, columns scaled"
)
