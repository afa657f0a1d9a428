"""Follows the studies of a coordinator: a line for each finished round, each warning, and the end of each study."""

from collections.abc import Callable, Iterator
from pathlib import Path

from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy
from fedtl.federation.limits import outliers
from fedtl.results.run import HistoryLine

DONE, STOPPED = "done", "stopped"


def follow_studies(folder: Path, wait: Callable[[], None]) -> Iterator[str]:
    """
    Yield the lines of the last round of every study, and then what happens, until every study is done or stopped. ``wait`` is
    called between two looks.
    """
    seen: dict[str, int] = {}
    ended: set[str] = set()
    while True:
        studies = {
            path.parent.name: HostedStudy(path.parent)
            for path in sorted((folder / "studies").glob("*/plan.json"))
        }
        for name, study in studies.items():
            lines = study.log.lines()
            for line in lines[seen.get(name, max(len(lines) - 1, 0)) :]:
                yield from _round_lines(name, study, line)
            seen[name] = len(lines)
            state = study_end(study)
            if state and name not in ended:
                ended.add(name)
                yield f"{name}: {state}"
            elif not state:
                ended.discard(name)
        if ended >= studies.keys():
            return
        wait()


def study_end(study: HostedStudy) -> str:
    """Return "done", or "stopped" and why; "" for a study that is neither."""
    if study.done:
        return DONE
    stopped = study.path / STOPPED_FILE
    return f"{STOPPED}: {stopped.read_text().strip()}" if stopped.is_file() else ""


def _round_lines(name: str, study: HostedStudy, line: HistoryLine) -> Iterator[str]:
    config = study.plan.config
    yield (
        f"{name}: round {line.round} of {config.rounds}, {len(line.silos)} sites, {line.seconds:.0f} s, "
        f"{line.bytes_up:,} bytes received"
    )
    yield from (f"{name}:   left out: {reason}" for reason in line.left_out.values())
    yield from (f"{name}:   warning: {text}" for text in outliers(line.weights, line.norms, config.limits))
