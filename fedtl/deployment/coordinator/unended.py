"""Which studies have not ended, and what is wrong with the files of one that cannot be read."""

from functools import lru_cache
from pathlib import Path

from fedtl.deployment.coordinator.asking import ASKING_FILE, asked_until
from fedtl.deployment.coordinator.study import QUEUED_FILE, STOPPED_FILE, HostedStudy
from fedtl.errors import ConfigError
from fedtl.federation.round_log import RoundLog


def unended_studies(folder: Path) -> list[HostedStudy]:
    """Return the studies of the coordinator's ``folder`` that were started or queued, are not stopped, and are not done or still ask their sites."""
    paths = {
        path.parent for name in ("runs.jsonl", QUEUED_FILE) for path in (folder / "studies").glob(f"*/{name}")
    }
    studies = [HostedStudy(path) for path in sorted(paths)]
    return [
        one
        for one in studies
        if not (one.path / STOPPED_FILE).exists() and (not one.done or (one.path / ASKING_FILE).exists())
    ]


def damage(study: HostedStudy) -> str:
    """Return which file of a study cannot be read, and what to do; "" where all can. No other study depends on it."""
    try:
        _ = study.plan, study.queued_since, asked_until(study)
        if study.done:
            _ = study.result
        return _history_damage(study.log, study.log.version)
    except (ConfigError, OSError) as error:
        return str(error)


@lru_cache(maxsize=1000)
def _history_damage(log: RoundLog, version: object) -> str:
    """As ``damage``, of the history alone. It is asked for every two seconds, and a history may have thousands of lines."""
    try:
        log.lines()
    except ConfigError as error:
        return str(error)
    return ""
