"""Follows the studies of a coordinator: each finished round, each warning, and the end of each study."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedtl.deployment.coordinator.study import HostedStudy, why_stopped
from fedtl.errors import ConfigError
from fedtl.federation.limits import outliers
from fedtl.results.run import HistoryLine

ROUND, LEFT_OUT, WARNING, DONE, STOPPED = "round", "left out", "warning", "done", "stopped"


@dataclass(frozen=True)
class StudyEvent:
    """``what``: one of the five above. ``text``: in a few words; of a stopped study why. ``figures``: of a round."""

    study: str
    what: str
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        indent = "  " if self.what in (LEFT_OUT, WARNING) else ""
        shown = (
            self.text if self.what == ROUND else DONE if self.what == DONE else f"{self.what}: {self.text}"
        )
        return f"{self.study}: {indent}{shown}"


@dataclass
class StudyFollower:
    """
    What happened in the studies of ``folder`` since the last look; at the first one, the last round of each. A history is read when it has
    changed, since a coordinator keeps its studies for years.
    """

    folder: Path
    _seen: dict[str, int] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _versions: dict[str, object] = field(default_factory=dict)  # of the history at the last look

    def look(self) -> Iterator[StudyEvent]:
        for name, study in started_studies(self.folder).items():
            with suppress(ConfigError, OSError):  # DamageWatch says so
                yield from self._rounds(name, study)
            end = study_end(name, study)
            if end and name not in self._ended:
                self._ended.add(name)
                yield end
            elif not end:
                self._ended.discard(name)

    def _rounds(self, name: str, study: HostedStudy) -> Iterator[StudyEvent]:
        version = study.log.version
        if name in self._seen and self._versions[name] == version:
            return
        lines = study.log.lines()
        for line in lines[self._seen.get(name, max(len(lines) - 1, 0)) :]:
            yield from _of_round(name, study, line)
        self._seen[name], self._versions[name] = len(lines), version

    @property
    def all_ended(self) -> bool:
        """Whether there is a study, and each one is done or stopped."""
        studies = started_studies(self.folder)
        return bool(studies) and self._ended >= studies.keys()


def started_studies(folder: Path) -> dict[str, HostedStudy]:
    """Return by name the studies that were started or queued in the coordinator's ``folder``, those that have ended included."""
    paths = sorted((folder / "studies").glob("*/plan.json"))
    return {path.parent.name: HostedStudy(path.parent) for path in paths}


def follow_studies(folder: Path, wait: Callable[[], None]) -> Iterator[StudyEvent]:
    """Yield events until there is a study and each one is done or stopped. ``wait`` is called between two looks."""
    follower = StudyFollower(folder)
    while True:
        yield from follower.look()
        if follower.all_ended:
            return
        wait()


def study_end(name: str, study: HostedStudy) -> StudyEvent | None:
    """Return that a study is done, or stopped and why; None for one that is neither."""
    if study.done:
        return StudyEvent(name, DONE, "")
    reason = why_stopped(study)
    return None if reason is None else StudyEvent(name, STOPPED, reason)


def _of_round(name: str, study: HostedStudy, line: HistoryLine) -> Iterator[StudyEvent]:
    config = study.plan.config
    text = (
        f"round {line.round} of {config.rounds}, {len(line.silos)} sites, {line.seconds:.0f} s, "
        f"{line.bytes_up:,} bytes received"
    )
    figures = {"round": line.round, "sites": len(line.silos), "seconds": line.seconds}
    yield StudyEvent(name, ROUND, text, {**figures, "bytes_up": line.bytes_up, "bytes_down": line.bytes_down})
    yield from (StudyEvent(name, LEFT_OUT, reason) for reason in line.left_out.values())
    yield from (StudyEvent(name, WARNING, text) for text in outliers(line.weights, line.norms, config.limits))
