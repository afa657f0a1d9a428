"""The coordinator's folder and its processes: SuperLink, SuperExec and gate."""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from fedtl._util.files import make_folder, write_bytes
from fedtl.deployment import certificates
from fedtl.deployment.coordinator import nginx as gate
from fedtl.deployment.coordinator import study as hosting
from fedtl.deployment.coordinator.settings import TEMPLATE, ServerSettings, load
from fedtl.deployment.coordinator.studies import resume
from fedtl.deployment.coordinator.superlink import CONNECTION
from fedtl.deployment.flower_commands import environment, tool
from fedtl.deployment.supervise import supervise
from fedtl.errors import ConfigError

PARTS = ("link", "exec", "gate")
STOPPING = 40.0


def init(folder: Path, host: str, listen: str, port: int) -> ServerSettings:
    """Raises ConfigError where something stands already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; a new server needs a new folder")
    make_folder(folder, private=True)
    folder.chmod(0o700)
    text = TEMPLATE.format(host=json.dumps(host), listen=json.dumps(listen), port=port)
    write_bytes(folder / "server.toml", text.encode(), private=True)
    try:
        settings = load(folder)
    except ConfigError:
        (folder / "server.toml").unlink()
        raise
    make_folder(folder / "tls", private=True)
    certificates.make_authority(folder / "tls", host)
    certificates.make_server(folder / "tls", host)
    write_bytes(folder / "exec.secret", os.urandom(32), private=True)
    configure(folder, settings)
    return settings


def configure(folder: Path, settings: ServerSettings) -> None:
    """What follows from server.toml: the gate's configuration, and where Flower's command line finds the SuperLink."""
    folder = folder.absolute()
    make_folder(folder / "gate", private=True)
    write_bytes(folder / "gate" / "nginx.conf", gate.configuration(folder, settings).encode())
    its = {"address": f"127.0.0.1:{settings.port}", "root-certificates": str(folder / "tls" / "ca.crt")}
    text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: its}})
    write_bytes(folder / "flwr" / "config.toml", text.encode(), private=True)


def commands(folder: Path, parts: Sequence[str]) -> dict[str, list[str]]:
    """The command of each part. Raises ConfigError."""
    folder = folder.absolute()
    settings, tls = load(folder), folder / "tls"
    secret = ["--superexec-auth-secret-file", str(folder / "exec.secret")]
    made = {
        "link": [
            *(tool("flower-superlink"), "--host", "127.0.0.1", "--port", str(settings.port)),
            *("--ssl-certfile", str(tls / "server.pem"), "--ssl-keyfile", str(tls / "server.key")),
            *("--ssl-ca-certfile", str(tls / "ca.crt"), "--enable-supernode-auth"),
            *("--isolation", "process", *secret, "--disable-runtime-dependency-installation"),
            *("--database", str(folder / "state.db")),
        ],
        "exec": [
            *(tool("flower-superexec"), "--root-certificates", str(tls / "ca.crt")),
            *("--runtime-api-address", f"127.0.0.1:{settings.port}", *secret),
        ],
    }
    if "gate" in parts:
        made["gate"] = [
            _nginx(),
            "-p",
            str(folder / "gate"),
            "-e",
            "stderr",
            "-c",
            str(folder / "gate" / "nginx.conf"),
        ]
    return {part: made[part] for part in parts}


def _nginx() -> str:
    for place in (shutil.which("nginx"), "/usr/sbin/nginx"):
        if place and Path(place).is_file():
            return place
    raise ConfigError(
        "the gate needs nginx, which is not installed: apt-get install nginx-light; or run --no-gate"
    )


def run(folder: Path, parts: Sequence[str]) -> int:
    """Until one of them ends; the exit code. Studies that had been started and are not done go on."""
    folder = folder.absolute()
    configure(folder, load(folder))
    os.umask(0o077)  # Flower would make its database readable to all
    made = commands(folder, parts)
    around = environment(folder, **{hosting.LOCATION: str(folder)})
    write_bytes(folder / "run.pid", f"{os.getpid()}\n".encode(), private=True)
    try:
        ready = (lambda: resume(folder)) if "link" in parts else None
        ended, code = supervise(made, dict.fromkeys(made, around), ready)
    finally:
        (folder / "run.pid").unlink(missing_ok=True)
    return 0 if not ended else code or 1


def stop(folder: Path) -> None:
    """Ends when it has ended. Raises ConfigError."""
    path = folder / "run.pid"
    try:
        pid = int(path.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no server runs for {folder}") from error
    end = time.monotonic() + STOPPING
    while path.exists() and time.monotonic() < end:
        time.sleep(0.2)
