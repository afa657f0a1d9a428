"""The rounds of runs as one JSON object a line, for each silo in each round: what other tools read most easily."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from fedtl._util.files import make_folder
from fedtl._util.records import from_plain, to_plain
from fedtl.errors import ConfigError
from fedtl.results.run import HistoryLine, MetricsLine


class MetricsFile:
    """
    Writes each round of a run once. A file that an earlier call wrote is replaced; ConfigError where the file has other content, such as the
    history of a run.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not _is_ours(path):
            raise ConfigError(f"{path} exists and was not written by --metrics; name another file")
        make_folder(path.parent)
        self._file = path.open("w")
        self._last: dict[str, int] = {}

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, name: str, lines: Sequence[HistoryLine]) -> None:
        """Write those of the run's rounds that have not been written."""
        for line in lines:
            if line.round > self._last.get(name, 0):
                for one in metrics_lines(name, line):
                    self._file.write(json.dumps(to_plain(one), allow_nan=False) + "\n")
                self._last[name] = line.round
        self._file.flush()


def metrics_lines(run: str, line: HistoryLine) -> Iterator[MetricsLine]:
    """Yield a line for each silo that took part in the round or was left out, by name."""
    for silo in sorted({*line.silos, *line.left_out}):
        yield MetricsLine(
            run=run,
            round=line.round,
            silo=silo,
            seconds=line.seconds,
            figures=line.silos.get(silo, {}),
            weight=line.weights.get(silo),
            norm=line.norms.get(silo),
            left_out=line.left_out.get(silo),
        )


def _is_ours(path: Path) -> bool:
    """Whether a file is empty or begins with a line of metrics."""
    try:
        with path.open() as file:
            first = file.readline()
        return not first or bool(from_plain(MetricsLine, json.loads(first)).silo)
    except (ValueError, OSError):
        return False
