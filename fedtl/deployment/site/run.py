"""Runs the processes of a site: the SuperNode, restricted to approved bundles, and the SuperExec, which starts a ClientApp for each round."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from fedtl.deployment.daily import DailyWarnings
from fedtl.deployment.event_log import event_log
from fedtl.deployment.flower_commands import flower_environment
from fedtl.deployment.last_line import ERROR
from fedtl.deployment.metrics import Metric, serve_metrics
from fedtl.deployment.running import ended_line, only_one
from fedtl.deployment.site.egress_lines import Disconnected
from fedtl.deployment.site.follow import RecordWatch
from fedtl.deployment.site.gate import warnings_before_connecting
from fedtl.deployment.site.home import SILO_FOLDER_VARIABLE, Home
from fedtl.deployment.supervise import Watches, supervise

log = logging.getLogger(__name__)
PARTS = ("node", "exec")
NO_ERROR = "Flower gave no error; this happens when the coordinator has expelled the key, or when its SuperLink has lost its database"


def site_commands(home: Home, parts: Sequence[str]) -> dict[str, list[str]]:
    """Return the command of each part."""
    python = [sys.executable, "-P", "-m"]  # -P: import nothing from the working folder
    commands = {
        "node": [*python, "fedtl.deployment.site.supernode", str(home.path)],
        "exec": [*python, "fedtl.deployment.site.superexec", str(home.path)],
    }
    return {part: commands[part] for part in parts}


def run_site(home: Home, parts: Sequence[str], metrics: int | None = None) -> int:
    """
    Run the parts until one of them ends, and return its exit code. After a crash the server refuses the key for two
    heartbeats; run the site again after that. ``metrics``: the port of the figures for Prometheus; None: they are not served. Raises
    ConfigError where another process runs a part of this folder, or the port is taken.
    """
    os.umask(0o077)
    with (
        only_one(home.path, parts, "fedtl silo run"),
        event_log(home.path, parts),
        serve_metrics(metrics, lambda: _figures(home)),
    ):
        return _run_parts(home, parts)


def _figures(home: Home) -> Sequence[Metric]:
    from fedtl.deployment.site.figures import site_metrics  # here, because it needs torch

    return site_metrics(home)


def _run_parts(home: Home, parts: Sequence[str]) -> int:
    environment = flower_environment(home.path, **{SILO_FOLDER_VARIABLE: str(home.path)})
    watches: list[Callable[[], None]] = []
    if "node" in parts:
        watches = [RecordWatch(home), DailyWarnings(partial(warnings_before_connecting, home))]
    ended, code, last_line = supervise(
        site_commands(home, parts), dict.fromkeys(PARTS, environment), watch=Watches(watches)
    )
    if not ended:
        return 0
    last = home.record.lines()[-1:] if ended == "node" and code > 0 else []
    reason = next((line.entry.reason for line in last if isinstance(line.entry, Disconnected)), "")
    if ended == "node" and code == 0 and not ERROR.search(last_line):
        reason = f"{NO_ERROR}; see: fedtl silo check {home.path}"
    log.error("%s", ended_line(ended, code, reason, last_line))
    return abs(code) or 1
