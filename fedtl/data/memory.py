"""
Rows that a Python program has in memory: arrays, tensors or DataFrames, one entry for each silo.

``rows_in_memory`` turns them into what a file would have given, through the code that reads files, so preparation,
splits, origins and checks are the same. The settings that it returns have ``source = "memory"``: the experiment names
its silos, but does not lead to their rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fedtl.data import frame, npz
from fedtl.data.array_texts import decoded
from fedtl.data.checks import check_rows
from fedtl.data.columns import in_order
from fedtl.data.series import series_of_frame
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw
from fedtl.errors import ConfigError, DataError

SOURCE = "memory"
ABOUT = "rows in memory, for Python programs: fedtl.run(experiment, data = ...) passes them"


def rows_in_memory(silos: Mapping[str, Any], settings: DataSettings) -> tuple[DataSettings, dict[str, Raw]]:
    """
    Return the ``[data]`` settings for these rows, and each silo's stored rows by name, checked.

    ``silos``: by the silo's name one of

    - ``(x, y)``: arrays, tensors, lists, or a DataFrame and a Series. x: images [N, H, W] or [N, H, W, C], or a table
      [N, columns]; y: N labels. Validation and test rows are split off.
    - a mapping with the names of the arrays of an .npz file: train_x, train_y, and val_*, test_*, target_*, columns.
    - a DataFrame, which is read as a CSV file is: ``settings.label`` names the label's column, empty cells are missing
      values, columns of text need ``settings.categories``.

    Under ``[privacy]`` the types of arrays and of a DataFrame's columns count as declared, as those of files do.

    To run on them, put each silo's rows into the store of stored rows before the study is built:
    ``store.get_or_make(f"{name}.raw", lambda: raw)``, and pass the store as ``raws``. Raises ConfigError or DataError.
    """
    if not isinstance(silos, Mapping) or frame.is_frame(silos):
        raise ConfigError(
            f'data is of type {type(silos).__name__}; pass a mapping from each silo\'s name to its rows: {{"north": ..., "south": ...}}'
        )
    if not silos:
        raise ConfigError("data: there is no silo; pass a mapping from names to rows")
    for name in silos:
        if not isinstance(name, str):
            raise ConfigError(
                f"data: the silo name {name!r} is of type {type(name).__name__}; names are text: {{{str(name)!r}: ...}}"
            )
    settings = settings.model_copy(
        update={"source": SOURCE, "path": "", "silos": settings.silos or sorted(silos)}
    )
    raws = {}
    for name in sorted({*settings.silos, *settings.late}):
        if name not in silos:
            raise ConfigError(f"data.silos: there are no rows of silo {name!r}; there are {', '.join(silos)}")
        raws[name] = _stored(silos[name], settings, name)
    first = next(iter(raws.values())).columns
    return settings, {name: in_order(raw, first) for name, raw in raws.items()}


def _stored(rows: Any, settings: DataSettings, name: str) -> Raw:
    where = f"silo {name}"
    if frame.is_frame(rows):
        of_frame = frame.rows_of_frame if settings.sequence is None else series_of_frame
        raw = of_frame(rows.rename(columns=str), settings, where)
        return check_rows(raw, settings, name, missing_values=True)
    if isinstance(rows, tuple) and len(rows) == 2:
        rows = {"train_x": rows[0], "train_y": rows[1]}
    if not isinstance(rows, Mapping):
        raise DataError(
            f"{where}: its rows are of type {type(rows).__name__}; pass (x, y), a mapping with train_x and train_y, or a DataFrame"
        )
    arrays = {key: _array(value, f"{where}: {key}") for key, value in rows.items()}
    if "columns" not in arrays and frame.is_frame(rows.get("train_x")):
        arrays["columns"] = np.array(list(map(str, rows["train_x"].columns)))
    return check_rows(npz.rows_of_arrays(arrays, settings, where), settings, name, missing_values=False)


def _array(value: Any, what: str) -> Array:
    """
    Return an array as an .npz file would hold it: numbers, or in place of objects texts, "" where one is missing. ``what`` names
    it in messages. Raises DataError for a value that is not an array, and for a list of arrays of several types, in which one row would
    change how all others are read.
    """
    if isinstance(value, list | tuple):
        types = sorted({str(one.dtype) for one in value if hasattr(one, "dtype")})
        if len(types) > 1:
            raise DataError(
                f"{what}: a list holds arrays of the types {' and '.join(types)}; convert them to one type"
            )
        if any(isinstance(one, str) for one in value):  # numpy would write 1.0 as "1.0" next to a text
            value = np.array([*value, None], object)[:-1]
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim == 0:
        raise DataError(
            f"{what} is of type {type(value).__name__}; pass an array, a tensor, a list or a DataFrame"
        )
    if array.dtype.kind != "O":
        return decoded(array)
    if frame.is_frame(value) and all(dtype.kind in "uifb" for dtype in value.dtypes):
        return array.astype(np.float64)  # columns of truth values and of numbers
    return frame.texts_of(array)


def learns(settings: DataSettings) -> frozenset[str]:
    """
    A column of a DataFrame can decide which rows are trained on, and to which series a row belongs; the second domain of arrays is
    given as such.
    """
    joined = settings.sequence is not None and settings.sequence.id
    return frozenset({"split"}) if settings.domain_column or settings.split_column or joined else frozenset()


def silos(settings: DataSettings) -> Sequence[str]:
    return sorted({*settings.silos, *settings.late})


def read(settings: DataSettings, name: str) -> Raw:
    """Refuse to read: rows in memory are passed to a run, and settings do not lead to them. Raises DataError."""
    raise DataError(
        f'silo {name}: data.source = "memory" is for Python programs that pass the rows: '
        "fedtl.run(experiment, data = ...); rows in files need another data.source"
    )
