"""What the coordinator sees: whether the server runs, which sites are admitted, and how far each study is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedtl.deployment.certificates import days_left, validity
from fedtl.deployment.coordinator.admitted import read_admitted
from fedtl.deployment.coordinator.asking import asked_until, verdicts_of
from fedtl.deployment.coordinator.history_summary import history_summary
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.studies import is_at_work
from fedtl.deployment.coordinator.study import HostedStudy, why_stopped
from fedtl.deployment.coordinator.superlink import SuperLink
from fedtl.deployment.coordinator.unended import damage
from fedtl.deployment.running import free_space
from fedtl.federation.limits import outliers


@dataclass(frozen=True)
class StudyStatus:
    """
    ``round``: the last one that is finished. ``stopped``: why, or None. ``replied``, ``left_out`` and ``outliers``: in that
    round. ``queued``: it waits for another study to end. ``verdicts``: by site, whether joining helped it, or why it did not say; empty where the plan does not ask.
    ``asked_until``: the time until which sites without a verdict are asked for it; None where none is asked. ``damaged``: which file of the
    study cannot be read, and "" where all can; its rounds, replies and verdicts are then not known.
    """

    round: int = 0
    rounds: int = 0
    done: bool = False
    at_work: bool = False
    queued: bool = False
    stopped: str | None = None
    replied: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    outliers: Sequence[str] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    asked_until: float | None = None
    damaged: str = ""


@dataclass(frozen=True)
class ServerStatus:
    """
    ``admitted``: for each site whether the SuperLink knows its key. ``certificates``: how long they are valid. ``disk``: how much is
    free. ``studies``: by name.
    """

    running: bool
    listen: str
    certificate_days_left: float
    certificates: Sequence[str]
    disk: str
    admitted: Mapping[str, str]
    studies: Mapping[str, StudyStatus]


def server_status(folder: Path) -> ServerStatus:
    """Return whether the server runs, which sites are admitted, and how far each study is. Raises ConfigError."""
    settings, sites = load_server_settings(folder), read_admitted(folder)
    return ServerStatus(
        running=SuperLink(folder).healthy,
        listen=settings.listen,
        certificate_days_left=round(days_left(folder / "tls" / "server.pem"), 1),
        certificates=certificate_lines(folder),
        disk=free_space(folder),
        admitted={name: str(site) for name, site in sites.items()},
        studies={
            path.parent.name: _study_status(HostedStudy(path.parent))
            for path in sorted((folder / "studies").glob("*/plan.json"))
        },
    )


def certificate_lines(folder: Path, within: float = math.inf) -> list[str]:
    """
    Return how long the gate's certificate and its authority are valid, and what to do where one ends soon. Only those that end ``within``
    this number of days are listed.
    """
    tls, again = folder / "tls", "send every site the ca.crt of a new authority; see deploy/README.md"
    certificates = (
        ("the certificate", days_left(tls / "server.pem"), f"renew it: fedtl server renew {folder}"),
        ("its authority", days_left(tls / "ca.crt"), again),
    )
    return [validity(name, days, remedy) for name, days, remedy in certificates if days < within]


def _study_status(study: HostedStudy) -> StudyStatus:
    stopped = why_stopped(study)
    if reason := damage(study):
        return StudyStatus(at_work=is_at_work(study), stopped=stopped, damaged=reason)
    last = history_summary(study).last
    return StudyStatus(
        round=last.round if last else 0,
        rounds=study.plan.config.rounds,
        done=study.done,
        at_work=is_at_work(study),
        queued=study.queued_since is not None,
        stopped=stopped,
        replied=sorted(last.silos) if last else [],
        left_out=last.left_out if last else {},
        outliers=outliers(last.weights, last.norms, study.plan.config.limits) if last else (),
        verdicts=verdicts_of(study),
        asked_until=None if stopped is not None else asked_until(study),
    )
