"""
A folder with one ``<silo>.npz`` per silo: arrays train_x and train_y, and val_*, test_* and target_* if there are any. A file of
MedMNIST (Yang et al., 2023) is read as it is. With ``silo_column = "hospital"`` one file has the rows of all silos, and an array
train_hospital names the silo of each.

With ``unit_column = "patient"`` also train_patient, and so on. A table may name its columns in an array ``columns``.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedtl.data.array_texts import decoded, labels_as_written
from fedtl.data.bounded import check_unpacked
from fedtl.data.columns import column_numbers, in_order, order_columns
from fedtl.data.formats import advice_on
from fedtl.data.labels import label_texts, merge_labels
from fedtl.data.pixels import check_masks
from fedtl.data.series import series_of_array
from fedtl.data.settings import DataSettings, SequenceSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

ABOUT = "a folder of <silo>.npz files: train_x, train_y, test_x, test_y; images [N, H, W] or [N, H, W, C], tables, series, or volumes"
PARTS = ("train", "val", "test")
BROKEN = (
    ValueError,
    OSError,
    EOFError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
)  # what numpy raises for a damaged file


def silos(settings: DataSettings) -> Sequence[str]:
    path = Path(settings.path)
    if settings.silo_column:
        return _silos_in_file(settings)
    if path.is_file():
        if settings.deal is None:
            raise DataError(
                f"data.path: {path} is one file; set data.deal to deal its rows to silos, data.silo_column = NAME for an array "
                "train_NAME that names the silo of each row, or data.path to a folder with a file for each silo"
            )
        return [path.stem]
    names = sorted(file.stem for file in path.glob("*.npz"))
    if not names:
        raise DataError(f"data.path: no <silo>.npz file in {path}{advice_on(path)}")
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. A file with pickled objects is refused. Raises DataError."""
    if settings.silo_column:
        path, where = _one_file(settings), f"{_one_file(settings)}, silo {name}"
        arrays = _rows_of_silo(_arrays(path), settings, name, where)
    else:
        path = Path(settings.path)
        path = path if path.is_file() else path / f"{name}.npz"
        arrays, where = _arrays(path), str(path)
    raw = rows_of_arrays(arrays, settings, where)
    return raw if settings.columns or path == Path(settings.path) else in_order(raw, _first_columns(settings))


def _arrays(path: Path) -> dict[str, Array]:
    """Return all arrays of a file by our names. Raises DataError."""
    if path.is_dir():
        raise DataError(
            f"{path} is a folder, but fedtl reads a file of that name; rename the folder or move it"
        )
    try:
        check_unpacked(path)  # np.load would take a file that is not a zip for a pickle, and report that
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: _array(archive, key, path) for key in archive.files}
    except (*BROKEN, KeyError) as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error
    if "train_images" in arrays and "train_x" not in arrays:  # a file of MedMNIST
        return {key.replace("_images", "_x").replace("_labels", "_y"): one for key, one in arrays.items()}
    return arrays


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of a file. Raises DataError."""
    try:
        with zipfile.ZipFile(path):
            pass
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error


def _one_file(settings: DataSettings) -> Path:
    """Return the file with the rows of all silos. Raises DataError."""
    path = Path(settings.path)
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if len(files) != 1:
        raise DataError(
            f"data.silo_column = {settings.silo_column!r} names the silo of each row of one .npz file, but {path} has {len(files)}"
        )
    return files[0]


def _silos_in_file(settings: DataSettings) -> list[str]:
    """Return the values of the arrays that name the silo of each row. Raises DataError."""
    path, own = _one_file(settings), f"_{settings.silo_column}"
    try:
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as archive:
            keys = [key for key in archive.files if key in {f"{part}{own}" for part in PARTS}]
            names = [label_texts(_array(archive, key, path).reshape(-1)) for key in keys]
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error
    if "train" + own not in keys:
        raise DataError(f"data.silo_column: {path} has no array train{own}, which names the silo of each row")
    return list(merge_labels(names))


def _rows_of_silo(
    arrays: Mapping[str, Array], settings: DataSettings, name: str, where: str
) -> dict[str, Array]:
    """Return the rows of one silo, from the arrays with the rows of all. Raises DataError."""
    own: dict[str, Array] = {}
    for key, one in arrays.items():
        part = next((part for part in PARTS if key.startswith(f"{part}_")), None)
        if part is None:
            own[key] = one
            continue
        silo = arrays.get(f"{part}_{settings.silo_column}")
        if silo is None or one.shape[:1] != silo.shape:
            problem = "is not there" if silo is None else f"is {silo.shape}"
            raise DataError(f"{where}: {key} is {one.shape}, and {part}_{settings.silo_column} {problem}")
        own[key] = one[np.array(label_texts(silo)) == name]
    return {key: one for key, one in own.items() if len(one) or key.startswith("train")}


def _first_columns(settings: DataSettings) -> tuple[str, ...]:
    """Return the names in the array ``columns`` of the first silo, which all silos are read in; () without one."""
    try:
        path = Path(settings.path) / f"{silos(settings)[0]}.npz"
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as archive:
            names = decoded(archive["columns"]) if "columns" in archive.files else np.empty(0, str)
    except BROKEN:  # refused when it is read itself
        return ()
    return tuple(map(str, names.reshape(-1).tolist()))


def _array(archive: Mapping[str, Array], key: str, path: Path) -> Array:
    """Return one array of a file. Raises DataError for one of Python objects, which are never loaded: they can run code."""
    try:
        return decoded(archive[key])
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
            f"{where} has no array {sorted(missing)[0]}; it has {', '.join(sorted(arrays)) or 'none'}; "
            "save them by these names: numpy.savez(file, train_x=..., train_y=...)"
        )
    unread, without_units = _unread(arrays, settings), settings.model_copy(update={"unit_column": ""})
    if settings.sequence is not None:
        arrays, lines = _with_series(arrays, settings.sequence, where)
        unread += lines
    train = _part(arrays, "train", where, settings)
    assert train is not None
    raw = Raw(
        train=train,
        val=_part(arrays, "val", where, settings),
        test=_part(arrays, "test", where, settings),
        target=arrays["target_x"] if settings.target_domain else None,
        target_test=_part(arrays, "target_test", where, without_units) if settings.target_domain else None,
        columns=_column_names(arrays, train.x, settings, where),
        unread=unread,
    )
    return order_columns(raw, settings, where) if settings.columns else raw


def _unread(arrays: Mapping[str, Array], settings: DataSettings) -> tuple[str, ...]:
    """Return a line with the names of the arrays that have no use."""
    target = ("target", "target_test") if settings.target_domain else ()
    ends = ("x", "y", settings.unit_column, settings.silo_column)
    used = {"columns"} | {f"{part}_{end}" for part in (*PARTS, *target) for end in ends if end}
    others = sorted(arrays.keys() - used)
    return (f"arrays of other names, not read: {', '.join(others[:12])}",) if others else ()


def _with_series(
    arrays: Mapping[str, Array], sequence: SequenceSettings, where: str
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return the arrays with series in the place of the inputs, and lines on what was cut or padded. Raises DataError."""
    made, lines = dict(arrays), list[str]()
    for part in PARTS:
        if (key := f"{part}_x") in arrays:
            made[key], own = series_of_array(arrays[key], sequence, f"{where}: {key}")
            lines += (f"{key}: {line}" for line in own)
    return made, tuple(lines)


def _column_names(
    arrays: Mapping[str, Array], x: Array, settings: DataSettings, where: str
) -> tuple[str, ...]:
    """
    Return the names of columns or channels in the array ``columns``, or else the declared names, or else the numbers; () for images.
    """
    declared = tuple(settings.columns)
    if x.ndim > 2 and settings.sequence is None:
        if declared:
            raise DataError(f"data.columns names columns, but train_x of {where} holds images; remove it")
        return ()
    if "columns" not in arrays:
        if declared and len(declared) != x.shape[-1]:
            raise DataError(
                f"data.columns names {len(declared)} columns, but train_x of {where} has {x.shape[-1]}; name all"
            )
        return declared or column_numbers(x)
    names = tuple(map(str, arrays["columns"].reshape(-1).tolist()))
    if len(names) != x.shape[-1] or len(set(names)) != len(names):
        raise DataError(
            f"{where}: the array columns has {len(set(names))} different names, but train_x has {x.shape[-1]} columns"
        )
    return names


def _one_label(y: Array, name: str) -> str:
    """Return how to save one label for each row of ``y`` [N, K]."""
    one_hot = y.dtype.kind in "uifb" and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()
    if one_hot:
        return f"it is one-hot: save {name}_y.argmax(1)"
    return f'set data.task = "multilabel" with the names of the columns in data.classes, or save one column, such as {name}_y[:, 0]'


def _part(arrays: Mapping[str, Array], name: str, where: str, settings: DataSettings) -> Part | None:
    x, y = arrays.get(f"{name}_x"), arrays.get(f"{name}_y")
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise DataError(f"{where} has only one of {name}_x and {name}_y; add the other")
    if settings.predicted.per_pixel:
        check_masks(x, y, f"{where}: {name}")
        return Part(x, y, _units(arrays, name, y, where, settings))
    shape = settings.predicted.label_shape(settings)
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
    _check_axes(x, f"{where}: {name}_x", settings)
    return Part(
        x, labels_as_written(y, settings, f"{where}: {name}_y"), _units(arrays, name, y, where, settings)
    )


def _units(
    arrays: Mapping[str, Array], name: str, y: Array, where: str, settings: DataSettings
) -> Array | None:
    unit = settings.unit_column
    units = arrays.get(f"{name}_{unit}") if unit else None
    if unit and (units is None or units.shape != y.shape[:1]):
        problem = f"has no array {name}_{unit}" if units is None else f"{name}_{unit} is {units.shape}"
        raise DataError(
            f"{where}: {problem}; data.unit_column = {unit!r} needs one number or name for each row of {name}_x"
        )
    return units


def _check_axes(x: Array, what: str, settings: DataSettings) -> None:
    """Raise DataError where the axes are not those of ``data.kind``."""
    if settings.kind == "volumes":
        if x.ndim != 4:
            raise DataError(
                f'{what} is {x.shape}, but data.kind = "volumes" needs N, D, H, W; save it in this order'
            )
    elif x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise DataError(
            f"{what} is {x.shape}, which looks like N, C, H, W; fedtl reads N, H, W, C; for volumes N, D, H, W set "
            'data.kind = "volumes"'
        )
