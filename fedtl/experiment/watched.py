"""What a run's folder says while it trains: for ``fedtl watch``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtl.errors import ConfigError
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.run import HistoryLine

RESULTS = ("result.json", "comparison.json", "trial.json")


@dataclass(frozen=True)
class Watched:
    """
    The rounds so far of the run in ``path``, and of how many. ``metric``: the one of its silos' validation rows that is shown. ``ended``: of
    the folder that was asked for, which may be a comparison of several runs.
    """

    path: Path
    rounds: int
    metric: str
    lines: Sequence[HistoryLine]
    ended: bool


def look(folder: Path) -> Watched:
    """Return the run in ``folder``, or of a comparison the run that wrote last. Raises ConfigError for another folder."""
    ended = any((folder / name).is_file() for name in RESULTS)
    run = RunFolder.open(_latest(folder))
    experiment = run.experiment()
    return Watched(run.path, experiment.rounds, experiment.data.predicted.curve, run.history(), ended)


def _latest(folder: Path) -> Path:
    """Return the run below ``folder`` whose history was written last; ``folder`` where it has no other runs."""
    RunFolder.open(folder)
    written = {}
    for file in folder.glob("*/*/history.jsonl"):
        try:
            written[file.parent] = file.stat().st_mtime_ns
        except FileNotFoundError:  # it is being replaced
            continue
    if not written:
        return folder
    latest = max(written, key=lambda path: written[path])
    try:
        return RunFolder.open(latest).path
    except ConfigError:
        return folder
