"""The pages of a run and of a comparison, written into their folders."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedtl.runfolder import RunFolder


def run_page(folder: "RunFolder") -> Path:
    from fedtl.durable import write
    from fedtl.report.page import run_page

    text = run_page(
        folder.read_json("result.json"), folder.history(), (folder.path / "experiment.toml").read_text()
    )
    write(folder.path / "report.html", lambda file: file.write_text(text))
    return folder.path / "report.html"


def compare_page(folder: "RunFolder") -> Path:
    from fedtl.compare import folders
    from fedtl.durable import write
    from fedtl.report.page import compare_page
    from fedtl.summary import curves

    settings = folder.experiment()
    lines = curves(settings, folders(settings, folder))
    text = compare_page(
        folder.read_json("comparison.json"), lines, (folder.path / "experiment.toml").read_text()
    )
    write(folder.path / "report.html", lambda file: file.write_text(text))
    return folder.path / "report.html"
