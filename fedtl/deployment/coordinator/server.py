"""The coordinator's folder and its processes: SuperLink, SuperExec and gate."""

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from fedtl._util.files import make_folder, write_bytes
from fedtl.deployment.certificates import MIN_DAYS, create_authority, create_server_certificate
from fedtl.deployment.coordinator.database import DATABASE, check_database
from fedtl.deployment.coordinator.figures import server_metrics
from fedtl.deployment.coordinator.nginx import check_path
from fedtl.deployment.coordinator.settings import TEMPLATE, ServerSettings, load_server_settings
from fedtl.deployment.coordinator.status import certificate_lines
from fedtl.deployment.coordinator.studies import resume_studies
from fedtl.deployment.coordinator.study import SERVER_FOLDER_VARIABLE
from fedtl.deployment.coordinator.watch import (
    AskWatch,
    BundleWatch,
    CleanUpWatch,
    ClockWatch,
    DamageWatch,
    EarlyWatch,
    EventWatch,
    GateWatch,
    QueueWatch,
    StudyWatch,
    gate_text,
)
from fedtl.deployment.daily import DailyWarnings
from fedtl.deployment.event_log import event_log
from fedtl.deployment.flower_commands import flower_environment
from fedtl.deployment.metrics import serve_metrics
from fedtl.deployment.running import ended_line, holders, only_one
from fedtl.deployment.supervise import Watches, supervise
from fedtl.errors import ConfigError

log = logging.getLogger(__name__)
PARTS = ("link", "exec", "gate")
STOP_SECONDS = 40.0


def create_server(folder: Path, host: str, listen: str, port: int) -> ServerSettings:
    """Create the coordinator's folder. Raises ConfigError where the folder is not empty, or has a path that cannot be used."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; choose a new folder for the server")
    check_path(folder)
    make_folder(folder, private=True)
    folder.chmod(0o700)
    text = TEMPLATE.format(host=json.dumps(host), listen=json.dumps(listen), port=port)
    write_bytes(folder / "server.toml", text.encode(), private=True)
    try:
        settings = load_server_settings(folder)
    except ConfigError:
        (folder / "server.toml").unlink()
        raise
    make_folder(folder / "tls", private=True)
    create_authority(folder / "tls", host)
    create_server_certificate(folder / "tls", host)
    write_bytes(folder / "exec.secret", os.urandom(32), private=True)
    write_configuration(folder)
    return settings


def write_configuration(folder: Path) -> str:
    """Write and return nginx's configuration, which follows from server.toml, the admitted sites and the bundles."""
    folder = folder.absolute()
    make_folder(folder / "gate", private=True)
    text = gate_text(folder)
    write_bytes(folder / "gate" / "nginx.conf", text.encode())
    return text


def server_commands(folder: Path, parts: Sequence[str]) -> dict[str, list[str]]:
    """Return the command of each part. Raises ConfigError where one is not installed."""
    folder = folder.absolute()
    settings, tls = load_server_settings(folder), folder / "tls"
    secret = ["--superexec-auth-secret-file", str(folder / "exec.secret")]
    commands = {
        "link": [
            *(sys.executable, "-P", "-m", "fedtl.deployment.coordinator.bounded_superlink", str(folder)),
            *("--host", "127.0.0.1", "--port", str(settings.port)),
            *("--ssl-certfile", str(tls / "server.pem"), "--ssl-keyfile", str(tls / "server.key")),
            *("--ssl-ca-certfile", str(tls / "ca.crt"), "--enable-supernode-auth"),
            *("--isolation", "process", *secret, "--disable-runtime-dependency-installation"),
            *("--database", str(folder / DATABASE)),
        ],
        "exec": [
            *(sys.executable, "-P", "-m", "fedtl.deployment.coordinator.superexec"),
            *("--root-certificates", str(tls / "ca.crt")),
            *("--runtime-api-address", f"127.0.0.1:{settings.port}", *secret),
        ],
    }
    if "gate" in parts:
        gate = folder / "gate"
        commands["gate"] = [_nginx(), "-p", str(gate), "-e", "stderr", "-c", str(gate / "nginx.conf")]
    return {part: commands[part] for part in parts}


def _nginx() -> str:
    for path in (shutil.which("nginx"), "/usr/sbin/nginx"):
        if path and Path(path).is_file():
            return path
    raise ConfigError(
        "nginx is not installed, and the gate needs it: apt-get install nginx-light; or run without it: --no-gate"
    )


def run_server(folder: Path, parts: Sequence[str], metrics: int | None = None) -> int:
    """
    Run the parts until one of them ends, and return its exit code. Studies that were started and are not done are
    resumed. ``metrics``: the port of the figures for Prometheus; None: they are not served. Raises ConfigError where another process
    runs a part of this folder, or the port is taken.
    """
    folder = folder.absolute()
    load_server_settings(folder)
    with (
        only_one(folder, parts, "fedtl server run"),
        event_log(folder, parts),
        serve_metrics(metrics, partial(server_metrics, folder)),
    ):
        return _run_parts(folder, parts)


def _run_parts(folder: Path, parts: Sequence[str]) -> int:
    for line in certificate_lines(folder):
        log.info("%s", line)
    watches: list[Callable[[], None]] = []
    gate = _gate_watch(folder, parts)
    if gate:
        watches.append(gate)
    if "link" in parts:
        watches += [
            BundleWatch(folder),
            DamageWatch(folder),
            StudyWatch(folder),
            AskWatch(folder),
            QueueWatch(folder),
            EarlyWatch(folder),
        ]
        watches += [EventWatch(folder), CleanUpWatch(folder), ClockWatch()]
        watches.append(DailyWarnings(partial(certificate_lines, folder, MIN_DAYS)))
    os.umask(0o077)  # otherwise every user could read Flower's database
    if "link" in parts:
        check_database(folder)
    commands = server_commands(folder, parts)
    environment = flower_environment(folder, **{SERVER_FOLDER_VARIABLE: str(folder)})

    def ready(processes: Mapping[str, int]) -> None:
        if gate:
            gate.nginx = processes.get("gate")
        if "link" in parts:
            resume_studies(folder)

    if "gate" in parts:  # the number of an nginx that has ended may be that of the new one
        (folder / "gate" / "nginx.pid").unlink(missing_ok=True)
    ended, code, last_line = supervise(
        commands, dict.fromkeys(commands, environment), ready, Watches(watches)
    )
    if ended:
        log.error("%s", ended_line(ended, code, last_line=last_line))
    return 0 if not ended else abs(code) or 1


def _gate_watch(folder: Path, parts: Sequence[str]) -> GateWatch | None:
    """
    Return what keeps nginx's configuration up to date; None where this process runs link or exec alone, because then another one runs
    the gate, in a container of its own, and a file has one writer.
    """
    if list(parts) in (["link"], ["exec"]):
        return None
    return GateWatch(folder, write_configuration(folder))


def stop_server(folder: Path) -> None:
    """Tell the server to stop and wait until it has. Raises ConfigError where none runs, or where it does not end."""
    running = set(holders(folder, PARTS).values())
    if not running:
        raise ConfigError(f"no server runs for {folder}")
    for pid in running:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while left := holders(folder, PARTS):
        if time.monotonic() > deadline:
            names = ", ".join(f"{part} (process {pid})" for part, pid in left.items())
            raise ConfigError(f"{folder}: still running {STOP_SECONDS:.0f} s after SIGTERM: {names}")
        time.sleep(0.2)
