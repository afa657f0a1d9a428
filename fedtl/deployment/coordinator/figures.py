"""The coordinator's figures for Prometheus."""

import shutil
from pathlib import Path

from fedtl.deployment.certificates import days_left
from fedtl.deployment.coordinator.admitted import read_admitted
from fedtl.deployment.coordinator.history_summary import history_summary
from fedtl.deployment.coordinator.status import StudyStatus, server_status
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.superlink import SuperLink
from fedtl.deployment.metrics import Metric, Value
from fedtl.deployment.site.keys import public_key_pem
from fedtl.errors import ConfigError

STATES = ("running", "waiting", "done", "stopped")


def server_metrics(folder: Path) -> list[Metric]:
    """Return the figures of now. Raises ConfigError."""
    status = server_status(folder)
    readable = [name for name, study in status.studies.items() if not study.damaged]
    rows = {name: history_summary(HostedStudy(folder / "studies" / name)) for name in readable}
    last = {name: one.last for name, one in rows.items() if one.last}
    tls = folder / "tls"
    ends = {"server": days_left(tls / "server.pem"), "authority": days_left(tls / "ca.crt")}
    studies = status.studies.items()
    return [
        Metric("superlink_up", "1 while the SuperLink answers", [Value.of(int(status.running))]),
        Metric("site_connected", "1 while an admitted site is connected", _connected(folder)),
        Metric("study_round", "last finished round", [Value.of(one.round, study=name) for name, one in studies]),
        Metric("study_rounds", "rounds of the plan", [Value.of(one.rounds, study=name) for name, one in studies]),
        Metric(
            "study_state",
            "1 for the state that a study is in",
            [
                Value.of(int(_state(one) == state), study=name, state=state)
                for name, one in studies
                for state in STATES
            ],
        ),
        Metric("round_seconds", "seconds of the last round", [Value.of(one.seconds, study=name) for name, one in last.items()]),
        Metric("round_sites", "sites whose update counted in the last round", [Value.of(len(one.silos), study=name) for name, one in last.items()]),
        Metric("round_left_out", "sites left out of the last round", [Value.of(len(one.left_out), study=name) for name, one in last.items()]),
        Metric(
            "received_bytes_total",
            "bytes of all updates",
            [Value.of(one.bytes_up, study=name) for name, one in rows.items()],
            "counter",
        ),
        Metric(
            "sent_bytes_total",
            "bytes of all tasks",
            [Value.of(one.bytes_down, study=name) for name, one in rows.items()],
            "counter",
        ),
        Metric("certificate_days", "days until a certificate expires", [Value.of(days, certificate=name) for name, days in ends.items()]),
        Metric("disk_free_bytes", "free bytes of the disk", [Value.of(shutil.disk_usage(folder).free)]),
    ]  # fmt: skip


def _state(study: StudyStatus) -> str:
    if study.done:
        return "done"
    return "stopped" if study.stopped is not None else "running" if study.at_work else "waiting"


def _connected(folder: Path) -> list[Value]:
    """Return 0 for every site where the SuperLink does not run."""
    try:
        nodes = SuperLink(folder).nodes()
    except ConfigError:
        nodes = {}
    found = []
    for name, site in read_admitted(folder).items():
        node = nodes.get(public_key_pem(site.key))
        found.append(Value.of(int(node is not None and node.online), site=name))
    return found
