"""
A folder with one ``<silo>.npz`` each: arrays train_x, train_y, and val_*, test_*, target_* where there are any; with
``unit_column = "patient"`` also train_patient, and so on. A table may name its columns in an array ``columns``.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedtl.data.columns import arranged, positions
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError


def silos(settings: DataSettings) -> Sequence[str]:
    found = sorted(path.stem for path in Path(settings.path).glob("*.npz"))
    if not found:
        raise DataError(f"data.path: no <silo>.npz file in {settings.path}")
    return found


def read(settings: DataSettings, name: str) -> Raw:
    """Pickled objects in a file are refused. Raises DataError."""
    path = Path(settings.path) / f"{name}.npz"
    try:
        with zipfile.ZipFile(path):  # np.load would take any other file for a pickle, and say so
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error
    wanted = {"train_x", "train_y"} | ({"target_x"} if settings.target_domain else set())
    if missing := wanted - arrays.keys():
        raise DataError(
            f"{path} has no array {sorted(missing)[0]}; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    unit = settings.unit_column
    train = _part(arrays, "train", path, unit)
    assert train is not None
    use_target = bool(settings.target_domain)
    raw = Raw(
        train=train,
        val=_part(arrays, "val", path, unit),
        test=_part(arrays, "test", path, unit),
        target=arrays["target_x"] if use_target else None,
        target_test=_part(arrays, "target_test", path, "") if use_target else None,
        columns=_columns(arrays, train.x, settings, path),
    )
    return arranged(raw, settings, str(path)) if settings.columns else raw


def _columns(arrays: dict[str, Array], x: Array, settings: DataSettings, path: Path) -> tuple[str, ...]:
    """
    The names in the array ``columns``; without one, the declared names, and without these the positions. () for images.
    Raises DataError.
    """
    declared = tuple(settings.columns)
    if x.ndim > 2:
        if declared:
            raise DataError(f"data.columns names columns, but train_x of {path} holds images")
        return ()
    if "columns" not in arrays:
        if declared and len(declared) != x.shape[1]:
            raise DataError(
                f"data.columns names {len(declared)} columns, and train_x of {path} has {x.shape[1]}"
            )
        return declared or positions(x)
    names = tuple(map(str, arrays["columns"].reshape(-1).tolist()))
    if len(names) != x.shape[1] or len(set(names)) != len(names):
        raise DataError(
            f"{path}: columns names {len(set(names))} different columns, and train_x has {x.shape[1]}"
        )
    return names


def _part(arrays: dict[str, Array], name: str, path: Path, unit: str) -> Part | None:
    x, y = arrays.get(f"{name}_x"), arrays.get(f"{name}_y")
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise DataError(f"{path} has only one of {name}_x and {name}_y")
    if x.ndim not in (2, 3, 4) or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"{path}: {name}_x is {x.shape} and {name}_y {y.shape}; expected N x ... images or rows, and N labels"
        )
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise DataError(f"{path}: {name}_x is {x.shape}, which looks like N, C, H, W; fedtl reads N, H, W, C")
    units = arrays.get(f"{name}_{unit}") if unit else None
    if unit and (units is None or units.shape != y.shape):
        given = f"has no array {name}_{unit}" if units is None else f"{name}_{unit} is {units.shape}"
        raise DataError(
            f"{path}: {given}; data.unit_column = {unit!r} needs one number or name a row of {name}_x"
        )
    return Part(x, y, units)


ABOUT = "a folder of <silo>.npz files: train_x, train_y, test_x, test_y; images [N, H, W] or [N, H, W, C], or tables"
