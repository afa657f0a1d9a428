"""The page of a finished run, comparison or transferability, written into its folder."""

from pathlib import Path

import fedtl
from fedtl._util.files import write_file
from fedtl.errors import ConfigError
from fedtl.experiment.columns import run_folders
from fedtl.experiment.config.settings_file import read_toml
from fedtl.experiment.curves import learning_curves
from fedtl.experiment.feature_maps import features
from fedtl.experiment.page_facts import comparison_facts, run_facts
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.compare_page import compare_page
from fedtl.report.pair_page import pair_page
from fedtl.report.run_page import run_page
from fedtl.report.transfer_page import transfer_page

PAGE = "report.html"
SETTINGS = "experiment.toml"


def write_run_page(folder: RunFolder, with_features: bool = False) -> Path:
    """
    Write report.html of a run and return its path. ``with_features``: also show the features of test rows, which takes the rows and the
    models. Raises ConfigError where the run did not end.
    """
    result = folder.result()
    facts = run_facts(folder, folder.experiment(), result)
    maps = features(folder) if with_features else None
    return _write(folder, run_page(result, folder.history(), _settings(folder), facts, maps))


def write_compare_page(folder: RunFolder) -> Path:
    """Write report.html of a comparison and return its path. Raises ConfigError where it did not end."""
    experiment, comparison = folder.experiment(), folder.comparison()
    folders = run_folders(experiment, folder)
    facts = comparison_facts(folders, experiment, comparison)
    curves = learning_curves(experiment, folders)
    return _write(folder, compare_page(comparison, curves, _settings(folder), facts))


def write_transfer_page(folder: RunFolder) -> Path:
    """Write report.html of a transferability and return its path. Raises ConfigError where it did not end."""
    return _write(folder, transfer_page(folder.transferability(), _settings(folder)))


def write_page(folder: RunFolder) -> Path:
    """Write report.html of whatever ended in the folder and return its path. Raises ConfigError where nothing did."""
    if folder.has("transferability.json"):
        return write_transfer_page(folder)
    return write_compare_page(folder) if folder.has("comparison.json") else write_run_page(folder)


def write_pair_page(first: RunFolder, second: RunFolder, out: Path) -> Path:
    """Write the page of two comparisons to a new file and return its path. Raises ConfigError where one did not end, or the file exists."""
    folders = (first, second)
    for folder in folders:
        if not folder.has("comparison.json"):
            raise ConfigError(
                f"{folder.path} is not a finished comparison: it has no comparison.json; side by side, fedtl report shows comparisons only"
            )
    if out.exists():
        raise ConfigError(f"--out: {out} exists; name a new file")
    settings = [read_toml(folder.path / SETTINGS) for folder in folders]
    names = [folder.path.name for folder in folders]
    if names[0] == names[1]:
        names = [str(folder.path) for folder in folders]
    page = pair_page(names, [folder.comparison() for folder in folders], settings, fedtl.__version__)
    write_file(out, lambda file: file.write_text(page))
    return out


def _settings(folder: RunFolder) -> str:
    return (folder.path / SETTINGS).read_text()


def _write(folder: RunFolder, text: str) -> Path:
    path = folder.path / PAGE
    write_file(path, lambda file: file.write_text(text))
    return path
