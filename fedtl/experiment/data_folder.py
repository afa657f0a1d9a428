"""The folder of ``fedtl data EXP --out DIR``: ``data.json`` and the page, which tells what rows hold. Only its owner may read it."""

import json
from collections.abc import Sequence
from pathlib import Path

import fedtl
from fedtl._util.files import write_bytes, write_json
from fedtl._util.records import from_plain
from fedtl.errors import ConfigError
from fedtl.experiment.pages import PAGE
from fedtl.report.data_page import data_page
from fedtl.results.data_report import DataReport

RESULT = "data.json"


def write_data(
    folder: Path, report: DataReport, settings: str, settings_title: str, sharing: Sequence[str] = ()
) -> Path:
    """Write both files, readable by their owner only, and return the path of the page."""
    write_json(folder / RESULT, report, private=True)
    page = data_page(report, fedtl.__version__, settings, settings_title, sharing)
    write_bytes(folder / PAGE, page.encode(), private=True)
    return folder / PAGE


def read_data(folder: Path) -> DataReport:
    """Return the report in a folder. Raises ConfigError."""
    try:
        return from_plain(DataReport, json.loads((folder / RESULT).read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / RESULT} cannot be read: {error}") from error
