"""What a run's folder says while it trains: for ``fedtl watch``."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
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


def histories(folder: Path) -> Iterator[tuple[str, Sequence[HistoryLine]]]:
    """Yield name and rounds so far of the run in ``folder``, or of each run of a comparison. Raises ConfigError for another folder."""
    RunFolder.open(folder)
    for path in sorted(_runs(folder)) or [folder]:
        with suppress(ConfigError):  # a run that is just being made
            yield path.name, RunFolder.open(path).history()


def _latest(folder: Path) -> Path:
    """Return the run below ``folder`` whose history was written last; ``folder`` where it has no other runs."""
    RunFolder.open(folder)
    written = _runs(folder)
    if not written:
        return folder
    latest = max(written, key=lambda path: written[path])
    try:
        return RunFolder.open(latest).path
    except ConfigError:
        return folder


def _runs(folder: Path) -> dict[Path, int]:
    """Return the runs of a comparison, with the time in nanoseconds at which the history of each was written last."""
    written = {}
    for file in folder.glob("*/*/history.jsonl"):
        with suppress(FileNotFoundError):  # it is being replaced
            written[file.parent] = file.stat().st_mtime_ns
    return written
