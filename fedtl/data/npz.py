"""
A folder with one ``<silo>.npz`` per silo: arrays train_x and train_y, and val_*, test_* and target_* if there are any.

With ``unit_column = "patient"`` also train_patient, and so on. A table may name its columns in an array ``columns``.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedtl.data.columns import column_numbers, order_columns
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

ABOUT = "a folder of <silo>.npz files: train_x, train_y, test_x, test_y; images [N, H, W] or [N, H, W, C], or tables"


def silos(settings: DataSettings) -> Sequence[str]:
    names = sorted(path.stem for path in Path(settings.path).glob("*.npz"))
    if not names:
        raise DataError(f"data.path: no <silo>.npz file in {settings.path}")
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. A file with pickled objects is refused. Raises DataError."""
    path = Path(settings.path) / f"{name}.npz"
    try:
        with zipfile.ZipFile(path):  # np.load would take any other file for a pickle, and report that
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error
    return rows_of_arrays(arrays, settings, str(path))


def rows_of_arrays(arrays: Mapping[str, Array], settings: DataSettings, where: str) -> Raw:
    """Return one silo's rows from arrays by name; ``where`` names their origin in messages. Raises DataError."""
    required = {"train_x", "train_y"} | ({"target_x"} if settings.target_domain else set())
    if missing := required - arrays.keys():
        raise DataError(
            f"{where} has no array {sorted(missing)[0]}; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    unit = settings.unit_column
    train = _part(arrays, "train", where, unit)
    assert train is not None
    raw = Raw(
        train=train,
        val=_part(arrays, "val", where, unit),
        test=_part(arrays, "test", where, unit),
        target=arrays["target_x"] if settings.target_domain else None,
        target_test=_part(arrays, "target_test", where, "") if settings.target_domain else None,
        columns=_column_names(arrays, train.x, settings, where),
    )
    return order_columns(raw, settings, where) if settings.columns else raw


def _column_names(
    arrays: Mapping[str, Array], x: Array, settings: DataSettings, where: str
) -> tuple[str, ...]:
    """Return the names in the array ``columns``, or else the declared names, or else the numbers; () for images."""
    declared = tuple(settings.columns)
    if x.ndim > 2:
        if declared:
            raise DataError(f"data.columns names columns, but train_x of {where} holds images")
        return ()
    if "columns" not in arrays:
        if declared and len(declared) != x.shape[1]:
            raise DataError(
                f"data.columns names {len(declared)} columns, but train_x of {where} has {x.shape[1]}"
            )
        return declared or column_numbers(x)
    names = tuple(map(str, arrays["columns"].reshape(-1).tolist()))
    if len(names) != x.shape[1] or len(set(names)) != len(names):
        raise DataError(
            f"{where}: the array columns has {len(set(names))} different names, but train_x has {x.shape[1]} columns"
        )
    return names


def _part(arrays: Mapping[str, Array], name: str, where: str, unit: str) -> Part | None:
    x, y = arrays.get(f"{name}_x"), arrays.get(f"{name}_y")
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise DataError(f"{where} has only one of {name}_x and {name}_y; add the other")
    if x.ndim not in (2, 3, 4) or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"{where}: {name}_x is {x.shape} and {name}_y is {y.shape}; expected N images or rows, and N labels"
        )
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise DataError(
            f"{where}: {name}_x is {x.shape}, which looks like N, C, H, W; fedtl reads N, H, W, C"
        )
    units = arrays.get(f"{name}_{unit}") if unit else None
    if unit and (units is None or units.shape != y.shape):
        problem = f"has no array {name}_{unit}" if units is None else f"{name}_{unit} is {units.shape}"
        raise DataError(
            f"{where}: {problem}; data.unit_column = {unit!r} needs one number or name for each row of {name}_x"
        )
    return Part(x, y, units)
