"""
Sets of the hub of Hugging Face by their names, "hf-hub:owner/name": the files of one commit, from the cache of this machine or, with
``data.download``, downloaded to it. No code of a set is run: a set that is a script is refused, and so is every form of files but these.

The hub's sets are public. An institution's rows are not: ``load_dataset`` writes what it reads into a cache of the user.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from fedtl.data.settings import DataSettings
from fedtl.errors import DataError, first_line

HUB = "hf-hub:"
FORMS = ("parquet", "csv", "json", "arrow", "imagefolder")
NEEDED = "source \"huggingface\" needs a package: pip install 'fedtl[huggingface]'"


def is_hub_set(path: str) -> bool:
    """Return whether ``data.path`` is the name of a set and no path."""
    return path.startswith(HUB)


def set_name(path: str) -> str:
    """Return "owner/name", or "name" of a set without owner."""
    return path.removeprefix(HUB)


def commit(settings: DataSettings) -> str:
    """Return the commit whose files are read. Raises DataError where they are not here."""
    return _snapshot(set_name(settings.path), settings.revision, settings.download).name


def load_hub_set(settings: DataSettings) -> Any:
    """Return the set's parts, a ``datasets.DatasetDict``. Raises DataError where its files are not here, or cannot be read."""
    name = set_name(settings.path)
    return _load(_snapshot(name, settings.revision, settings.download), name, settings.subset)


def _snapshot(name: str, revision: str, download: bool) -> Path:
    """Return the folder with the files of a commit, whose name is that of the commit. Raises DataError."""
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise DataError(NEEDED) from error
    try:
        found = snapshot_download(
            name, repo_type="dataset", revision=revision or None, local_files_only=not download
        )
    except Exception as error:  # it raises one type for each thing that a server can answer
        wanted = f"{name} at {revision}" if revision else name
        why = "data.download is not set" if not download else first_line(error)
        raise DataError(
            f"data.path: the set {wanted} is not in the cache of this machine, {constants.HF_HUB_CACHE} ({why}); set data.download = true where "
            "there is a connection, copy that cache, or set data.path to a folder that Dataset.save_to_disk wrote"
        ) from error
    return Path(found)


@lru_cache(maxsize=4)
def _load(folder: Path, name: str, subset: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(NEEDED) from error
    if scripts := sorted(folder.glob("*.py")):
        raise DataError(
            f"data.path: the set {name} is a script, {scripts[0].name}, which fedtl does not run; choose a set of files"
        )
    try:
        builder: Any = datasets.load_dataset_builder(str(folder), subset or None)
    except Exception as error:  # as above
        raise DataError(
            f"data.path: the set {name} cannot be read: {first_line(error)}; if the set has several parts, name one in data.subset"
        ) from error
    form = type(builder).__module__.rpartition(".")[2]
    if form not in FORMS:
        raise DataError(
            f"data.path: the files of the set {name} have the format {form!r}; fedtl reads {', '.join(FORMS)}"
        )
    bars = not datasets.are_progress_bars_disabled()
    try:
        datasets.disable_progress_bars()
        builder.download_and_prepare()
        return builder.as_dataset()
    except Exception as error:  # as above
        raise DataError(f"data.path: the set {name} cannot be read: {first_line(error)}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()
