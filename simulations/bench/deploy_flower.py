"""Flower alone between real processes: its SuperLink and SuperNodes with TLS and node keys, and FedAvg."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import tomli_w
from deploy_load import DeployLoad, SiteFailed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from memory import PeakOf

from fedtl.deployment.coordinator.bundle import pack_app
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.superlink import SuperLink
from fedtl.deployment.flower_commands import flower_environment
from fedtl.deployment.site.keys import create_node_key, read_public_key
from tests.real_processes import around, free_port, wait

APP = Path(__file__).resolve().parent / "flower_app"
FILES = ("server/__init__.py", "server/app.py", "clients/__init__.py", "clients/app.py")
SECONDS = 3600.0


def measure(load: DeployLoad, rounds: int, work: Path) -> tuple[list[float], dict[str, float], None]:
    """Return the seconds of each round, and the memory of the ServerApp and the SuperLink. Its tensors are not compared: None."""
    server, out, port = work / "flower", work / "flower.json", free_port()
    create_server(server, "localhost", "127.0.0.1:1", port)
    facts = {"model": load.model, "shape": load.shape, "sites": load.sites, "rounds": rounds}
    facts |= {"rows": load.rows, "batch": load.batch, "lr": load.lr, "out": str(out)}
    own = {"FEDTL_BENCH": json.dumps(facts), "OMP_NUM_THREADS": "1"}
    given = around(**{**flower_environment(server), **own})
    started = [_start(_superlink(server, port), given, work / "flower-superlink.log")]
    try:
        link = SuperLink(server)
        link.wait_until_healthy()
        for name in load.names():
            create_node_key(work / f"{name}.key", name)
            link.register(read_public_key(work / f"{name}.key.pub"), name)
            site = {**given, "FLWR_HOME": str(work / f"flower-{name}")}
            command = _supernode(server, port, work / f"{name}.key")
            started.append(_start(command, site, work / f"flower-{name}.log"))
        with PeakOf(started[0].pid, ("flwr-serverapp", "flower-superlink")) as peak:
            link.start_run(_fab(work / "flower-app"), {})
            wait("the rounds of Flower alone", lambda: len(finished(work)) == rounds, SECONDS, started)
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(60)
    found = json.loads(out.read_text())
    if found["replies"] != [load.sites] * rounds:
        raise SiteFailed(f"Flower alone: replies in each round: {found['replies']}")
    return found["seconds"], peak.mib, None


def finished(work: Path) -> list[float]:
    """Return the seconds of the rounds that were finished in ``work``, also where the measurement was ended."""
    out = work / "flower.json"
    return json.loads(out.read_text())["seconds"] if out.is_file() else []


def _command(name: str) -> str:
    """Return the path of a command of Flower's, which lies beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _superlink(server: Path, port: int) -> list[str]:
    tls = server / "tls"
    return [
        *(_command("flower-superlink"), "--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-certfile", str(tls / "server.pem"), "--ssl-keyfile", str(tls / "server.key")),
        *("--ssl-ca-certfile", str(tls / "ca.crt"), "--enable-supernode-auth"),
        *("--disable-runtime-dependency-installation", "--database", str(server / "state.db")),
    ]


def _supernode(server: Path, port: int, key: Path) -> list[str]:
    return [
        *(_command("flower-supernode"), "--superlink", f"localhost:{port}"),
        *("--root-certificates", str(server / "tls" / "ca.crt")),
        *("--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(free_port())),
    ]


def _fab(app: Path) -> bytes:
    shutil.copytree(APP, app)
    about = {
        "publisher": "fedtl",
        "fab-include": list(FILES),
        "components": {"serverapp": "server.app:app", "clientapp": "clients.app:app"},
        "config": {},
    }
    project = {"name": "flower-alone", "version": "1.0.0", "description": "FedAvg", "license": "Apache-2.0"}
    content = {"project": {**project, "dependencies": []}, "tool": {"flwr": {"app": about}}}
    (app / "pyproject.toml").write_text(tomli_w.dumps(content))
    return pack_app(app)


def _start(command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
