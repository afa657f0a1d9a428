"""
Image files that a CSV table lists (``data.manifest``): a column of paths, the label, and where settings name them the unit, the silo
and the part. The table lies in ``data.path`` and lists all silos (``data.silo_column``) or one, or each silo's folder has one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fedtl._util.counted import counted
from fedtl.data import table
from fedtl.data.formats import advice_on
from fedtl.data.frame import column_of, rows_of_frame, texts_of
from fedtl.data.image_files import SUFFIXES, is_image
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NUMBER = "fedtl row number"  # a column that no file has: rows of the table in the place of inputs


def silos(settings: DataSettings) -> Sequence[str]:
    """Return the names in the silo column; else those of the folders that have a table; one table without such a column is one silo."""
    home = Path(settings.path)
    if settings.silo_column:
        return table.silos(_as_table(home / settings.manifest, settings))
    if (home / settings.manifest).is_file():
        return [home.name]
    names = sorted(path.parent.name for path in home.glob(f"*/{settings.manifest}") if path.is_file())
    if not names:
        raise DataError(f"data.manifest: neither {home} nor a folder in it has a file {settings.manifest}")
    return names


def read(settings: DataSettings, name: str) -> tuple[Raw, list[Path], tuple[str, ...]]:
    """
    Return one silo's rows with the numbers of its files in the place of inputs [N, 1], the files, and a line on image files that no
    row names. Raises DataError for a path that leaves the folder, that does not exist, or that two rows name.
    """
    home = Path(settings.path)
    folder = home if settings.silo_column or (home / settings.manifest).is_file() else home / name
    file = folder / settings.manifest
    if not file.is_file():
        raise DataError(f"data.manifest: {file} does not exist; write it, with a row for each image")
    rows, where = table.rows_of(_as_table(file, settings), name)
    if not len(rows):
        raise DataError(f"{where} has no row; write one for each image")
    paths = [_checked(cell, folder, where) for cell in _cells(rows, settings, where)]
    seen: dict[Path, int] = {}
    for number, path in enumerate(paths):
        if (first := seen.setdefault(path, number)) != number:
            raise DataError(
                f"{where}: rows {first + 1} and {number + 1} both name {path.relative_to(folder.resolve())}; remove one"
            )
    unread = tuple(_not_named(folder, file, settings))
    return _numbered(rows, settings, name, where), paths, unread


def _as_table(file: Path, settings: DataSettings) -> DataSettings:
    return settings.model_copy(update={"path": str(file)})


def _cells(rows: "pd.DataFrame", settings: DataSettings, where: str) -> list[str]:
    column = column_of(rows, settings.file_column, where, "data.file_column")
    return [str(cell) for cell in texts_of(column.to_numpy(object)).tolist()]


def _checked(cell: str, folder: Path, where: str) -> Path:
    """Return the file that a cell names, without symbolic links. Raises DataError where it is not a file of the folder."""
    path = PurePosixPath(cell)
    if not cell or path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{where}: the path {cell!r} is empty or leaves {folder}; write it relative to this folder, without .."
        )
    try:
        found = (folder / path).resolve(strict=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # missing, a circle of links, a name that no file can have
        raise DataError(
            f"{where}: {cell!r} is not a file in {folder}; correct the row, or remove it"
        ) from error
    if not found.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {cell!r} is a link out of {folder}; copy the file into the folder")
    if not is_image(found):
        raise DataError(
            f"{where}: {cell!r} is not an image that fedtl reads ({', '.join(SUFFIXES)}){advice_on(found)}"
        )
    return found


def _not_named(folder: Path, file: Path, settings: DataSettings) -> Iterator[str]:
    """Yield a line with the number of images in the folder that no row of the table names, of any silo."""
    whole = table.load_frame(str(file), settings)
    named = {str(PurePosixPath(cell)) for cell in _cells(whole, settings, str(file))}
    below = (path for path in folder.rglob("*") if is_image(path))
    if left := sorted(name for path in below if (name := path.relative_to(folder).as_posix()) not in named):
        yield f"{counted(len(left), 'image')} named by no row of {file.name}, not read (the first is {left[0]})"


def _numbered(rows: "pd.DataFrame", settings: DataSettings, name: str, where: str) -> Raw:
    """Return labels, units and parts of the rows, with the number of each row as its only input."""
    checked, settings = table.with_own_labels(rows, settings, name, where)
    own = settings.model_copy(update={"columns": [NUMBER], "drop": [], "categories": {}})
    return replace(rows_of_frame(checked.assign(**{NUMBER: range(len(rows))}), own, where), columns=())


def file_numbers(x: Array) -> list[int]:
    """Return the numbers of the files [N] from the inputs of ``read``."""
    return [int(number) for number in x[:, 0]]
