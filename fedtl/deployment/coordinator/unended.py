"""Which studies have not ended, and what is wrong with the files of one that cannot be read."""

from pathlib import Path

from fedtl.deployment.coordinator.asking import ASKING_FILE, asked_until
from fedtl.deployment.coordinator.history_summary import history_summary
from fedtl.deployment.coordinator.study import QUEUED_FILE, STOPPED_FILE, HostedStudy
from fedtl.errors import ConfigError


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
        return history_summary(study).damage
    except (ConfigError, OSError) as error:
        return str(error)
