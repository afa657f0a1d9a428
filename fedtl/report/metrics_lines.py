"""The rounds of runs as one JSON object a line, for each silo in each round: what other tools read most easily."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedtl._util.files import make_folder
from fedtl._util.records import from_plain, to_plain
from fedtl.errors import ConfigError
from fedtl.report.round_writer import RoundWriter
from fedtl.results.run import HistoryLine, MetricsLine


class MetricsFile(RoundWriter):
    """
    Writes the rounds of runs to a file. A file that an earlier call wrote is replaced. Raises ConfigError where the file has other
    content, such as the history of a run.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not _is_ours(path):
            raise ConfigError(f"{path} exists and was not written by --metrics; name another file")
        super().__init__()
        make_folder(path.parent)
        self._file = self._open.enter_context(path.open("w"))

    def _write(self, run: str, lines: Sequence[HistoryLine]) -> None:
        for line in lines:
            for one in metrics_lines(run, line):
                self._file.write(json.dumps(to_plain(one), allow_nan=False) + "\n")
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
