"""Inputs without labels, from one file or folder: what a model is asked about, or what an experiment declares public."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedtl.data import frame, image_files, table
from fedtl.data.bounded import check_unpacked
from fedtl.data.formats import advice_on
from fedtl.data.npz import BROKEN
from fedtl.data.preprocess import Inputs
from fedtl.data.series import known_series, series_of_array
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError


@dataclass(frozen=True)
class NewRows:
    """
    Rows ``x`` as a source stores them, the ``files`` of images or the ids of series, the columns of a table that are ``unread``, and
    lines ``notes`` on what was cut or padded. ``column``: what predictions name the files or ids.
    """

    x: Array
    files: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    column: str = "file"


def read_inputs(
    path: Path, settings: DataSettings, inputs: Inputs, shape: Sequence[int], key: str = "--input"
) -> NewRows:
    """
    Return new rows. ``path``: an .npz (array ``x`` or ``test_x``), an .npy, a CSV, Parquet or Excel table with the columns of training
        in any order, an image or volume, or a folder of them. ``shape``: of one input of the model, which decides whether images are
    read as grey or RGB. ``key``: what names the path, for messages. Raises DataError.
    """
    if not path.exists():
        raise DataError(f"{key}: {path} does not exist")
    suffix, sequence = path.suffix.lower(), settings.sequence
    if suffix in (".npz", ".npy"):
        return _rows_of_arrays(path, settings, inputs, key)
    if suffix in table.SUFFIXES:
        rows = table.load_frame(str(path), settings)
        if sequence is not None:
            if not sequence.id:
                raise DataError(
                    f"{key}: {path}: the model was trained on series in arrays; pass an .npz or .npy [N, T, C]"
                )
            x, ids, lines = known_series(rows, settings, inputs.columns, f"{key}: {path}")
            return NewRows(x, ids, (), lines, sequence.id)
        check_reads_tables(shape, inputs.columns, f"{key}: {path}")
        x, unread = frame.known_inputs(rows, settings, inputs.columns, f"{key}: {path}")
        return NewRows(x, (), tuple(unread))
    files = [path] if path.is_file() else sorted(filter(image_files.is_image, path.rglob("*")))
    if not files or not image_files.is_image(files[0]):
        raise DataError(
            f"{key}: {path} is not an .npz, .npy, .csv, .parquet, .xlsx, image or folder of images{advice_on(path)}"
        )
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
    channels = shape[0] if len(shape) == 3 and shape[0] in (1, 3) else inputs.channels
    as_trained = {"size": inputs.size, "channels": channels, "kind": inputs.kind}
    images = image_files.load_images(files, settings.model_copy(update=as_trained))
    return NewRows(images.x, tuple(_names_of_rows(names, images.counts)))


def check_reads_tables(shape: Sequence[int], columns: Sequence[str], where: str) -> None:
    """Raise DataError where a table is given to a model that was trained on images or other arrays. ``shape``: of one of its inputs."""
    if len(shape) > 1 and not columns:
        raise DataError(
            f"{where} is a table, and the model was trained on arrays of shape {list(shape)}, such as images; pass images, or an "
            ".npz or .npy file"
        )


def _names_of_rows(names: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    """Yield a name for each row: that of its file, with the number of the slice where the file has several."""
    for name, count in zip(names, counts, strict=True):
        yield from [name] if count == 1 else (f"{name}[{number}]" for number in range(count))


def _rows_of_arrays(path: Path, settings: DataSettings, inputs: Inputs, key: str) -> NewRows:
    """Return the rows of an .npy or .npz file; columns that an array ``columns`` names are put in the model's order."""
    x, names = _loaded(path, key)
    lines: tuple[str, ...] = ()
    if settings.sequence is not None:
        x, lines = series_of_array(x, settings.sequence, f"{key}: {path}")
    elif x.ndim != 2:
        return NewRows(x)
    if not names or not inputs.columns:
        return NewRows(x, notes=lines)
    if lacking := [column for column in inputs.columns if column not in names]:
        raise DataError(
            f"{key}: {path} has no column {lacking[0]!r}; the model needs {', '.join(inputs.columns)}"
        )
    return NewRows(x[..., [names.index(column) for column in inputs.columns]], notes=lines)


def _loaded(path: Path, key: str) -> tuple[Array, list[str]]:
    """Return the array of rows in an .npy or .npz file, and the names in an array ``columns``. Raises DataError."""
    try:
        if path.suffix.lower() == ".npz":
            check_unpacked(path)
        loaded: Any = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npy":
            return np.asarray(loaded), []
        name = next(name for name in ("x", "test_x") if name in loaded.files)
        names = loaded["columns"].reshape(-1).tolist() if "columns" in loaded.files else []
        return np.asarray(loaded[name]), names
    except (*BROKEN, StopIteration) as error:
        raise DataError(
            f"{key}: {path} has no array x or test_x of plain numbers ({error or 'neither'})"
        ) from error
