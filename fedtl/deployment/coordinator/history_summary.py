"""
What ``fedtl server run`` and its figures need of the history of a study. A history may have thousands of lines, a coordinator keeps its studies
for years, and it is asked every two seconds: so each version of a history is read once.
"""

from dataclasses import dataclass
from functools import lru_cache

from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.errors import ConfigError
from fedtl.federation.round_log import RoundLog
from fedtl.results.run import HistoryLine


@dataclass(frozen=True)
class HistorySummary:
    """``last``: the last finished round; None before the first. Bytes of all rounds. ``damage``: why the file cannot be read, or ""."""

    last: HistoryLine | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    damage: str = ""


def history_summary(study: HostedStudy) -> HistorySummary:
    """Raises OSError for a file that may not be read."""
    return _summary(study.log, study.log.version)


@lru_cache(maxsize=1000)
def _summary(log: RoundLog, version: object) -> HistorySummary:
    try:
        lines = log.lines()
    except ConfigError as error:
        return HistorySummary(damage=str(error))
    return HistorySummary(
        last=lines[-1] if lines else None,
        bytes_up=sum(line.bytes_up for line in lines),
        bytes_down=sum(line.bytes_down for line in lines),
    )
