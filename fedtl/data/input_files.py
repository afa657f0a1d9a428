"""Inputs without labels, from one file or folder: what a model is asked about, or what an experiment declares public."""

from pathlib import Path
from typing import Any

import numpy as np

from fedtl.data import frame, images, table
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError


def read_inputs(
    path: Path, settings: DataSettings, inputs: Inputs, key: str = "--input"
) -> tuple[Array, list[str]]:
    """
    Return new rows, and for images the name of each file. ``path``: an .npz (array ``x`` or ``test_x``), an .npy, a CSV or
    Parquet table with the columns of training, an image, or a folder of images. ``key``: what names the path, for messages.
    Raises DataError.
    """
    if not path.exists():
        raise DataError(f"{key}: {path} does not exist")
    if path.suffix in (".npz", ".npy"):
        try:
            loaded: Any = np.load(path, allow_pickle=False)
            if path.suffix == ".npy":
                return np.asarray(loaded), []
            key = next(key for key in ("x", "test_x") if key in loaded.files)
            return np.asarray(loaded[key]), []
        except (ValueError, OSError, StopIteration) as error:
            raise DataError(f"{key}: {path} has no array named x or test_x ({error or 'neither'})") from error
    if path.suffix in table.SUFFIXES:
        columns, x = frame.frame_inputs(table.load_frame(str(path)), settings, str(path))
        if columns != inputs.columns:
            differing = sorted(set(columns) ^ set(inputs.columns)) or ["the same in another order"]
            raise DataError(
                f"{key}: {path} has other columns than the model: {differing[0]}; the model needs {', '.join(inputs.columns)}"
            )
        return x, []
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.suffix.lower() in images.SUFFIXES)
    )
    if not files or files[0].suffix.lower() not in images.SUFFIXES:
        raise DataError(f"{key}: {path} is not an .npz, .npy, .csv, .parquet, image or folder of images")
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
    return images.load_images(files, inputs.size, inputs.channels), names
