"""The folder of a silo that was onboarded: ``onboard.json``, ``experiment.toml`` and the page. All are written at the end."""

from pathlib import Path

from fedtl._util.files import write_file, write_json
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import to_toml
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.pages import PAGE
from fedtl.report.onboard_page import onboard_page
from fedtl.results.onboard import OnboardResult

RESULT = "onboard.json"


def check_new(folder: Path) -> None:
    """Raise ConfigError where the folder is a file or not empty."""
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise ConfigError(f"--out: {folder} is not empty; name a new folder")


def write_onboarded(folder: Path, result: OnboardResult, experiment: Experiment) -> Path:
    """Write the files and return the path of the page. ``experiment``: says where the silo's rows are."""
    settings = to_toml(experiment)
    write_file(folder / "experiment.toml", lambda file: file.write_text(settings))
    write_json(folder / RESULT, result)
    page = onboard_page(result, settings)
    write_file(folder / PAGE, lambda file: file.write_text(page))
    return folder / PAGE
