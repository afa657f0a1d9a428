"""
A folder with one ``<silo>.npz`` per silo: arrays train_x and train_y, and val_*, test_* and target_* if there are any.

With ``unit_column = "patient"`` also train_patient, and so on. A table may name its columns in an array ``columns``.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedtl.data.columns import column_numbers, in_order, order_columns
from fedtl.data.formats import advice_on
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

ABOUT = "a folder of <silo>.npz files: train_x, train_y, test_x, test_y; images [N, H, W] or [N, H, W, C], or tables"


def silos(settings: DataSettings) -> Sequence[str]:
    names = sorted(path.stem for path in Path(settings.path).glob("*.npz"))
    if not names:
        raise DataError(f"data.path: no <silo>.npz file in {settings.path}{advice_on(Path(settings.path))}")
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. A file with pickled objects is refused. Raises DataError."""
    path = Path(settings.path) / f"{name}.npz"
    try:
        with zipfile.ZipFile(path):  # np.load would take any other file for a pickle, and report that
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: _array(archive, key, path) for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error
    raw = rows_of_arrays(arrays, settings, str(path))
    return raw if settings.columns else in_order(raw, _first_columns(settings))


def _first_columns(settings: DataSettings) -> tuple[str, ...]:
    """Return the names in the array ``columns`` of the first silo, which all silos are read in; () without one."""
    try:
        with np.load(Path(settings.path) / f"{silos(settings)[0]}.npz", allow_pickle=False) as archive:
            names = archive["columns"] if "columns" in archive.files else np.empty(0, str)
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile):  # refused when it is read itself
        return ()
    return tuple(map(str, names.reshape(-1).tolist()))


def _array(archive: Mapping[str, Array], key: str, path: Path) -> Array:
    """Return one array of a file. Raises DataError for one of Python objects, which are never loaded: they can run code."""
    try:
        return archive[key]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise DataError(
            f"{path} cannot be read: the array {key} holds Python objects, which fedtl does not load; save it as numbers or texts: "
            f"numpy.array({key}.tolist()), with all rows of one length"
        ) from error


def rows_of_arrays(arrays: Mapping[str, Array], settings: DataSettings, where: str) -> Raw:
    """Return one silo's rows from arrays by name; ``where`` names their origin in messages. Raises DataError."""
    required = {"train_x", "train_y"} | ({"target_x"} if settings.target_domain else set())
    if missing := required - arrays.keys():
        raise DataError(
            f"{where} has no array {sorted(missing)[0]}; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    unit, shape = settings.unit_column, settings.predicted.label_shape(settings)
    train = _part(arrays, "train", where, unit, shape)
    assert train is not None
    raw = Raw(
        train=train,
        val=_part(arrays, "val", where, unit, shape),
        test=_part(arrays, "test", where, unit, shape),
        target=arrays["target_x"] if settings.target_domain else None,
        target_test=_part(arrays, "target_test", where, "", shape) if settings.target_domain else None,
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


def _one_label(y: Array, name: str) -> str:
    """Return how to save one label for each row of ``y`` [N, K]."""
    one_hot = y.dtype.kind in "uifb" and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()
    if one_hot:
        return f"it is one-hot: save {name}_y.argmax(1)"
    return f'set data.task = "multilabel" with the names of the columns in data.classes, or save one column, such as {name}_y[:, 0]'


def _part(
    arrays: Mapping[str, Array], name: str, where: str, unit: str, shape: tuple[int, ...]
) -> Part | None:
    x, y = arrays.get(f"{name}_x"), arrays.get(f"{name}_y")
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise DataError(f"{where} has only one of {name}_x and {name}_y; add the other")
    if y.ndim == 2 and y.shape[1] == 1 and not shape:
        y = y[:, 0]
    if shape and y.shape[1:] != shape:
        raise DataError(
            f"{where}: {name}_y is {y.shape}, and this task needs [N, {shape[0]}] numbers; correct it, or data.task and data.classes"
        )
    if y.ndim == 2 and not shape:
        raise DataError(
            f"{where}: {name}_x is {x.shape} and {name}_y is {y.shape}, and data.task predicts one label; {_one_label(y, name)}"
        )
    if x.ndim not in (2, 3, 4) or y.ndim != 1 + len(shape) or len(x) != len(y):
        raise DataError(
            f"{where}: {name}_x is {x.shape} and {name}_y is {y.shape}; expected N images or rows, and N labels"
        )
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise DataError(
            f"{where}: {name}_x is {x.shape}, which looks like N, C, H, W; fedtl reads N, H, W, C"
        )
    units = arrays.get(f"{name}_{unit}") if unit else None
    if unit and (units is None or units.shape != y.shape[:1]):
        problem = f"has no array {name}_{unit}" if units is None else f"{name}_{unit} is {units.shape}"
        raise DataError(
            f"{where}: {problem}; data.unit_column = {unit!r} needs one number or name for each row of {name}_x"
        )
    return Part(x, y, units)
