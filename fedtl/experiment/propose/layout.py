"""How rows lie in a folder: in which format, and what a silo is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fedtl.data import huggingface, images, table
from fedtl.data.formats import advice_on, is_hidden
from fedtl.data.image_files import is_image
from fedtl.data.masks import IMAGES, MASKS
from fedtl.errors import DataError

PARTS = {  # of one set, as files and cells name them, and as data.split_column reads them
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
KEYS = 'write the file yourself: "fedtl schema experiment" has every key'


class Silos(Enum):
    """What a silo is."""

    FILES = "one a file"
    FOLDERS = "one a folder"
    ONE_SET = "all rows lie in one set"


@dataclass(frozen=True)
class Layout:
    """
    ``source``: of ``data.source``; ``path``: of ``data.path``. ``files``: the tables or arrays; of images, the tables that list them.
    ``manifest``: the name of these, "" where folders name the classes.
    """

    source: str
    path: Path
    silos: Silos
    files: tuple[Path, ...] = ()
    manifest: str = ""


def look_at(path: Path) -> Layout:
    """Return how the rows of a file or folder lie. Raises DataError where no reader of fedtl reads them."""
    if not path.exists():
        raise DataError(f"--data {path} does not exist")
    if path.is_file():
        return _of_file(path)
    entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry))
    folders = [entry for entry in entries if entry.is_dir()]
    tables = [entry for entry in entries if entry.suffix.lower() in table.SUFFIXES]
    arrays = [entry for entry in entries if entry.suffix.lower() == ".npz"]
    if huggingface.is_saved(path):
        return Layout("huggingface", path, Silos.ONE_SET)
    if any(map(huggingface.is_saved, folders)):
        return Layout("huggingface", path, Silos.FOLDERS)
    if tables and arrays:
        raise DataError(
            f"--data {path} has {len(tables)} tables and {len(arrays)} .npz files; name a folder with one of the two"
        )
    if layout := _of_images(path, folders, tables):
        return layout
    if tables or arrays:
        return _of_files(path, tables or arrays)
    raise DataError(f"--data {path}: {_nothing(path, folders)}")


def _of_file(path: Path) -> Layout:
    suffix = path.suffix.lower()
    if suffix in table.SUFFIXES:
        return Layout("table", path, Silos.ONE_SET, (path,))
    if suffix == ".npz":
        return Layout("npz", path, Silos.ONE_SET, (path,))
    raise DataError(
        f"--data {path} is no table ({', '.join(table.SUFFIXES)}) and no .npz{advice_on(path) or '; name a folder'}"
    )


def _of_files(path: Path, files: Sequence[Path]) -> Layout:
    """Return the layout of a folder of tables or of arrays."""
    source = "npz" if files[0].suffix.lower() == ".npz" else "table"
    if len(files) == 1:
        return Layout(source, files[0], Silos.ONE_SET, tuple(files))
    if parts := [file.name for file in files if file.stem.lower() in PARTS]:
        raise DataError(
            f"--data {path}: {', '.join(parts)} are named as parts of one set, not as silos; join them into one file, with a column that "
            "says train, val or test (data.split_column), or name each file for its silo"
        )
    return Layout(source, path, Silos.FILES, tuple(files))


def _of_images(path: Path, folders: Sequence[Path], tables: Sequence[Path]) -> Layout | None:
    """Return the layout of a folder of image files; None where no image lies in it."""
    if not any(is_image(file) for file in path.rglob("*")):
        return None
    if any((folder / IMAGES).is_dir() and (folder / MASKS).is_dir() for folder in (path, *folders)):
        raise DataError(
            f'--data {path}: folders {IMAGES} and {MASKS} are a segmentation, which is not proposed; write data.source = "images", '
            'data.task = "segmentation" and data.classes (docs/howto/segmentation.md)'
        )
    if len(tables) == 1:
        return Layout("images", path, Silos.ONE_SET, tuple(tables), tables[0].name)
    own = [[file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".csv"] for folder in folders]
    names = {file.name for files in own for file in files}
    if folders and len(names) == 1 and all(own):
        return Layout("images", path, Silos.FOLDERS, tuple(files[0] for files in own), names.pop())
    if not folders:
        raise DataError(
            f"--data {path}: its images are in no folder that names their class; move them to {path.name}/<silo>/<class>, or list them in a "
            "CSV table with a column of paths and one of labels"
        )
    return Layout("images", path, Silos.ONE_SET if images.is_one_set(path) else Silos.FOLDERS)


def _nothing(path: Path, folders: Sequence[Path]) -> str:
    """Return why nothing is read, and the way out."""
    below = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    inside = [file for file in below if file.suffix.lower() in (*table.SUFFIXES, ".npz")]
    if inside:
        one = inside[0]
        return (
            f"{len(inside)} files lie in folders below, such as {one.parent.name}/{one.name}; put one file for each silo into "
            f"one folder, as {path.name}/{one.parent.name}{one.suffix}"
        )
    return f"no table, .npz or image lies in it{advice_on(path)}; {KEYS}"
