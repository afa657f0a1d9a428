"""
CSV or Parquet: one file a silo, or one file with a silo column. Empty cells are missing values.

Columns of text need their categories declared (``categories = { sex = ["f", "m"] }``), because the silos must
agree on them without looking at each other's rows; each becomes a column of 0 and 1 per category.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.raw import Array, Part, Raw
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")


def silos(settings: DataSettings) -> Sequence[str]:
    path = Path(settings.path)
    if path.is_dir() == bool(settings.silo_column):
        what = "a folder with a file for each silo, so leave data.silo_column out" if path.is_dir() else (
            "one file, so data.silo_column must say which column names the silo"
        )
        raise DataError(f"data.path: {path} is {what}")
    if settings.silo_column:
        column = _column(load_frame(str(path)), settings.silo_column, path, "data.silo_column")
        if missing := int(column.isna().sum()):
            raise DataError(f"{path}: {missing} rows have no value in {settings.silo_column!r}")
        return sorted(map(str, column.unique()))
    found = sorted(entry.stem for entry in path.iterdir() if entry.suffix in SUFFIXES)
    if not found:
        raise DataError(f"data.path: no {' or '.join(SUFFIXES)} file in {path}")
    return found


def read(settings: DataSettings, name: str) -> Raw:
    """Raises DataError for a column that is missing, of text without categories, or not finite."""
    path = Path(settings.path)
    if settings.silo_column:
        whole = load_frame(str(path))
        frame, where = whole[whole[settings.silo_column].map(str) == name], f"{path}, silo {name}"
    else:
        path = next(path / f"{name}{suffix}" for suffix in SUFFIXES if (path / f"{name}{suffix}").exists())
        frame, where = load_frame(str(path)), str(path)
    columns, x = features(frame, settings, where)
    y = _labels(frame, settings, where)
    if not settings.target_domain:
        return Raw(Part(x, y), columns=columns)
    target = (_column(frame, settings.domain_column, path, "data.domain_column").map(str) == settings.target_domain).to_numpy()
    if not target.any() or target.all():
        raise DataError(f"{where}: {target.sum()} of {len(target)} rows have {settings.domain_column} = {settings.target_domain!r}; a silo needs rows of both domains")
    return Raw(Part(x[~target], y[~target]), target=x[target], target_test=Part(x[target], y[target]), columns=columns)


def features(frame: "pd.DataFrame", settings: DataSettings, where: str) -> tuple[tuple[str, ...], Array]:
    """The names and the values [N, columns] (float32, NaN where missing) that a model sees."""
    import pandas as pd

    aside = {settings.label, settings.silo_column, settings.domain_column}
    wanted = settings.columns or [column for column in frame.columns if column not in aside]
    made: dict[str, Array] = {}
    for name in wanted:
        column = _column(frame, name, Path(where), "data.columns")
        if name in settings.categories:
            known = settings.categories[name]
            text = column.map(lambda cell: cell if isinstance(cell, str) else f"{cell:g}", na_action="ignore")
            if unknown := set(text.dropna()) - set(known):
                raise DataError(f"{where}: {name} holds {sorted(unknown)[0]!r}, which data.categories does not list: {known}")
            made |= {f"{name}={value}": (text == value).to_numpy(np.float32) for value in known}
        elif pd.api.types.is_numeric_dtype(column):
            made[name] = column.to_numpy(np.float32, na_value=np.nan)
        else:
            example = next(cell for cell in column.dropna() if not _is_number(cell))
            few = sorted(map(str, column.dropna().unique()))[:4]
            raise DataError(f"{where}: {name} holds text ({example!r}); declare data.categories.{name} = {few}, or leave it out of data.columns")
        if np.isinf(made[name]).any() if name in made else False:
            raise DataError(f"{where}: {name} holds {int(np.isinf(made[name]).sum())} infinite values")
    return tuple(made), np.stack(list(made.values()), 1)


def _labels(frame: "pd.DataFrame", settings: DataSettings, where: str) -> Array:
    column = _column(frame, settings.label, Path(where), "data.label")
    if missing := int(column.isna().sum()):
        raise DataError(f"{where}: {missing} of {len(column)} rows have no {settings.label!r}; remove them")
    if settings.positive_above is not None:
        return (column.to_numpy(np.float64) > settings.positive_above).astype(np.int64)
    return column.to_numpy()


def _column(frame: "pd.DataFrame", name: str, path: Path, key: str) -> "pd.Series":
    if name not in frame.columns:
        raise DataError(f"{key}: {path} has no column {name!r}; it has {', '.join(map(str, frame.columns[:12]))}")
    return frame[name]


@lru_cache(maxsize=4)
def load_frame(path: str) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'fedtl[parquet]'") from error
    except (ValueError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise DataError(f"{path} cannot be read: {reason}") from error


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


ABOUT = "CSV or Parquet: one file a silo, or one file with a silo column; missing values imputed, columns scaled"
