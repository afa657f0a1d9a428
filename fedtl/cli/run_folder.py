"""The run folder that a command works in: made or opened, and what becomes of it when the command is cut short."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl.errors import ConfigError

if TYPE_CHECKING:
    from fedtl.experiment.config.schema import Experiment
    from fedtl.experiment.run_folder import RunFolder

_current: list["RunFolder"] = []
_fresh: list["RunFolder"] = []  # made by this command


def discarded() -> bool:
    """Whether all that this command made was an empty run folder, which is gone now."""
    return bool(_fresh) and _fresh.pop().discard_untouched()


def resumable() -> str:
    if not _current:
        return ""
    command = sys.argv[1] if len(sys.argv) > 1 else "run"
    return f"; go on with: fedtl {command} --resume {_current[0].path}"


def begin(
    name: str | None,
    overrides: list[str] | None,
    out: Path | None,
    resume: Path | None,
    workers: int | None,
    what: str,
) -> tuple["Experiment", "RunFolder"]:
    from fedtl.experiment.config.load import but, load
    from fedtl.experiment.run_folder import RunFolder

    if resume is not None:
        if overrides or out or name:
            raise ConfigError(
                "--resume takes its experiment and settings from the folder; leave EXP, --set and --out away"
            )
        folder = RunFolder.open(resume)
        settings = folder.experiment()
    else:
        if name is None:
            raise ConfigError(f"fedtl {what} needs an experiment: a TOML file, or digits")
        settings = load(name, overrides or [])
        stem = Path(name).stem
        path = (
            out
            or Path("runs")
            / f"{stem}-{what if what == 'compare' else settings.method.name}-{datetime.now():%Y%m%d-%H%M%S}"
        )
        if what == "compare":
            from fedtl.experiment.compare import variants

            variants(settings)
        folder = RunFolder(path)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            _fresh[:] = [folder]  # before it is made: Ctrl-C may come in between
        RunFolder.create(path, settings)
    _current[:] = [folder]
    if workers is not None:
        settings = but(settings, engine=settings.engine.model_copy(update={"workers": workers}))
    return settings, folder


if TYPE_CHECKING:
    from fedtl.experiment.run_folder import RunFolder


def run_page(folder: "RunFolder") -> Path:
    from fedtl._util.files import write
    from fedtl.report.page import run_page

    text = run_page(folder.result(), folder.history(), (folder.path / "experiment.toml").read_text())
    write(folder.path / "report.html", lambda file: file.write_text(text))
    return folder.path / "report.html"


def compare_page(folder: "RunFolder") -> Path:
    from fedtl._util.files import write
    from fedtl.experiment.compare import folders
    from fedtl.experiment.curves import learning_curves
    from fedtl.report.page import compare_page

    settings = folder.experiment()
    lines = learning_curves(settings, folders(settings, folder))
    text = compare_page(folder.comparison(), lines, (folder.path / "experiment.toml").read_text())
    write(folder.path / "report.html", lambda file: file.write_text(text))
    return folder.path / "report.html"
