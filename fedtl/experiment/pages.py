"""The page of a finished run, comparison or transferability, written into its folder."""

from pathlib import Path

from fedtl._util.files import write_file
from fedtl.experiment.columns import run_folders
from fedtl.experiment.curves import learning_curves
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.compare_page import compare_page
from fedtl.report.run_page import run_page
from fedtl.report.transfer_page import transfer_page

PAGE = "report.html"


def write_run_page(folder: RunFolder) -> Path:
    """Write report.html of a run and return its path. Raises ConfigError where the run did not end."""
    return _write(folder, run_page(folder.result(), folder.history(), _settings(folder)))


def write_compare_page(folder: RunFolder) -> Path:
    """Write report.html of a comparison and return its path. Raises ConfigError where it did not end."""
    experiment = folder.experiment()
    curves = learning_curves(experiment, run_folders(experiment, folder))
    return _write(folder, compare_page(folder.comparison(), curves, _settings(folder)))


def write_transfer_page(folder: RunFolder) -> Path:
    """Write report.html of a transferability and return its path. Raises ConfigError where it did not end."""
    return _write(folder, transfer_page(folder.transferability(), _settings(folder)))


def write_page(folder: RunFolder) -> Path:
    """Write report.html of whatever ended in the folder and return its path. Raises ConfigError where nothing did."""
    if folder.has("transferability.json"):
        return write_transfer_page(folder)
    return write_compare_page(folder) if folder.has("comparison.json") else write_run_page(folder)


def _settings(folder: RunFolder) -> str:
    return (folder.path / "experiment.toml").read_text()


def _write(folder: RunFolder, text: str) -> Path:
    path = folder.path / PAGE
    write_file(path, lambda file: file.write_text(text))
    return path
