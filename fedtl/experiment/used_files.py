"""
The files other than the rows that a run begins from: first weights, the folder of a text model, and the constants of the scaling.

Their hashes stand in the result, and in the checkpoint: a run whose files have changed since it began would continue with the old and the new
ones together, such as a new frozen body below an old head, so it is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from fedtl._util.files import sha256_of
from fedtl.data.settings import SCALES
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment
from fedtl.models.downloads import without_network
from fedtl.models.folder_files import CONFIG, folder_file, is_folder_name
from fedtl.models.libraries import weights_file
from fedtl.results.run import UsedFile

SHOWN = 12  # digits of a hash in a message


def used_files(experiment: Experiment) -> tuple[UsedFile, ...]:
    """Return the files with their hashes. Raises ConfigError where one cannot be read."""
    return tuple(UsedFile(setting, path.name, _hash(path, setting)) for setting, path in _paths(experiment))


def _hash(path: Path, setting: str) -> str:
    """Return the SHA-256 of a file. ``setting``: what names it, for the message. Raises ConfigError where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from error


def check_unchanged(began: Sequence[UsedFile], now: Sequence[UsedFile], run: Path) -> None:
    """
    Raise ConfigError where a file is another than when the ``run``, a folder, ``began``. Nothing is checked of a run that an earlier
    fedtl began, which kept no hashes.
    """
    present = {file.setting: file for file in now}
    for old in began:
        new = present.get(old.setting)
        if new is not None and new.sha256 != old.sha256:
            raise ConfigError(
                f"{old.setting}: {new.name} has changed since {run} began (SHA-256 {old.sha256[:SHOWN]} then, {new.sha256[:SHOWN]} now); "
                "put the old file back, or start a new run"
            )


def _paths(experiment: Experiment) -> Iterator[tuple[str, Path]]:
    """Yield the path of each file, by the setting that names it."""
    model, data = experiment.model, experiment.data
    if is_folder_name(model.name):
        yield f"model.name ({CONFIG})", folder_file(model.name, CONFIG)
    if data.tokenizer:
        yield "data.tokenizer", Path(data.tokenizer)
    if model.weights == "pretrained":
        with without_network() if model.offline else nullcontext():
            library = weights_file(model.name).path
        if library is not None:
            yield "model.weights", library
    elif model.weights:
        yield "model.weights", Path(model.weights)
    if data.scale not in SCALES:
        yield "data.scale", Path(data.scale)
