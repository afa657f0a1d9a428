"""The coordinator's folder and its processes: SuperLink, SuperExec and gate, and the studies that they run."""

import fcntl
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from fedtl import hosting
from fedtl.aggregate import ServerStep
from fedtl.coordinator import Plan
from fedtl.durable import make_folder, write_bytes
from fedtl.errors import ConfigError
from fedtl.home.keys import public_key
from fedtl.partition import Role
from fedtl.provision import admitted, certificates, gate
from fedtl.provision.bundle import Bundle
from fedtl.provision.settings import TEMPLATE, ServerSettings, load
from fedtl.provision.tools import environment, tool
from fedtl.supervise import supervise

PARTS = ("link", "exec", "gate")
CONNECTION = "fedtl"  # what Flower's command line calls our SuperLink
HEALTHY = 60.0  # seconds for a SuperLink to come up
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


def resume(folder: Path) -> None:
    """Once the SuperLink is up: tell it who is admitted, and go on with what was interrupted."""
    wait_healthy(folder)
    tell(folder)
    for study in sorted((folder / "studies").glob("*/runs.jsonl")):
        its = hosting.Study(study.parent)
        if not its.done and not (study.parent / hosting.STOPPED).exists():
            _submit(folder, Bundle(folder / "bundles" / its.about["bundle_name"]), its)


def healthy(folder: Path) -> bool:
    settings = load(folder)
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.crt"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"https://127.0.0.1:{settings.port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_healthy(folder: Path) -> None:
    end = time.monotonic() + HEALTHY
    while not healthy(folder):
        if time.monotonic() > end:
            raise ConfigError(
                f"the SuperLink of {folder} did not come up within {HEALTHY:g} s; its output says why"
            )
        time.sleep(0.3)


def admit(folder: Path, key_file: Path, name: str) -> bool:
    """Whether the SuperLink knows it already; otherwise it is told when it runs. Raises ConfigError."""
    load(folder)
    if not name:
        words = key_file.read_text(errors="replace").split()
        name = words[2] if len(words) > 2 else ""
    admitted.add(folder, _named(name), public_key(key_file))
    return healthy(folder) and tell(folder)


def expel(folder: Path, name: str) -> None:
    """Its key connects no more. Raises ConfigError."""
    rows = admitted.admitted(folder)
    if name not in rows:
        raise ConfigError(f"{name!r} is not admitted; there are {', '.join(rows) or 'none'}")
    if rows[name].node:
        if not healthy(folder):
            raise ConfigError(f"the SuperLink has to run, to be told: fedtl server run {folder}")
        flwr(folder, "supernode", "unregister", str(rows[name].node), CONNECTION)
    admitted.keep(folder, {key: row for key, row in rows.items() if key != name})


def _named(name: str) -> str:
    from fedtl.data.prepare import NAME

    if not NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: letters, digits and . _ + -, 64 at most")
    return name


def tell(folder: Path) -> bool:
    """Register the keys that Flower does not know yet."""
    rows = admitted.admitted(folder)
    for name, row in rows.items():
        if not row.node:
            file = folder / "flwr" / "admit.pub"
            write_bytes(file, f"{row.key} {name}\n".encode())
            told = flwr(folder, "supernode", "register", str(file), CONNECTION, "--name", name)
            file.unlink()
            rows[name] = replace(row, node=int(told["node-id"]))
            admitted.keep(folder, rows)
    return True


def start(folder: Path, bundle_name: str, study_name: str) -> hosting.Study:
    """Begin a study, or go on with it. Raises ConfigError."""
    settings, its = load(folder), Bundle(folder / "bundles" / bundle_name)
    if not its.file.is_file():
        known = sorted(path.name for path in (folder / "bundles").glob("*"))
        raise ConfigError(
            f"there is no bundle {bundle_name!r}; there are {', '.join(known) or 'none: fedtl server bundle'}"
        )
    about = its.about
    plan = Plan(
        study_name,
        about["seed"],
        about["rounds"],
        ServerStep(**about["server"]),
        about["silos_per_round"],
        about["minimum_silos"],
    )
    more = {key: about[key] for key in ("bundle", "plan")}
    more |= {"bundle_name": bundle_name, "deadline": settings.deadline, "tries": settings.tries}
    first = _tensors(its.folder / "start.safetensors")
    roles = {name: Role(role) for name, role in about["roles"].items()}
    study = hosting.Study.create(folder / "studies" / _named(study_name), plan, roles, first, more)
    if study.done:
        raise ConfigError(f"study {study_name!r} is done; its result is in {study.path}")
    if not healthy(folder):
        raise ConfigError(f"no SuperLink runs for {folder}: fedtl server run {folder}")
    tell(folder)
    _submit(folder, its, study)
    return study


def _tensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _submit(folder: Path, its: Bundle, study: hosting.Study) -> None:
    """A new Flower run of a study; one that is still at it is waited for by the next."""
    if its.hash != study.about["bundle"]:
        raise ConfigError(
            f"bundle {its.name!r} was built anew since study {study.path.name!r} began: another --study NAME"
        )
    (study.path / hosting.STOPPED).unlink(missing_ok=True)
    config = f'study="{study.path.name}" experiment="{its.name}"'
    told = flwr(folder, "run", str(its.folder / "app"), CONNECTION, "--run-config", config)
    if told["fab-hash"] != its.hash[: len(told["fab-hash"])]:
        raise ConfigError(f"{its.folder / 'app'} was changed since it was bundled: build it again")
    handle = os.open(study.path / "runs.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "a") as file:
        file.write(json.dumps({"run": told["run-id"], "at": time.time()}) + "\n")


def flwr(folder: Path, *words: str) -> dict[str, Any]:
    """One of Flower's own commands, and what it says as JSON. Raises ConfigError."""
    done = subprocess.run(
        [tool("flwr"), *words, "--format", "json"],
        env=environment(folder.absolute()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = {}
    if done.returncode or not said.get("success"):
        reason = said.get("error-message") or (done.stderr or done.stdout).strip()[-300:]
        raise ConfigError(f"flwr {' '.join(words[:2])}: {' '.join(str(reason).split())}")
    return said


def stop(folder: Path, study_name: str) -> None:
    """A study, which can be started again; or, without a name, the whole server. Raises ConfigError."""
    if study_name:
        its = hosting.Study(folder / "studies" / study_name)
        last = (its.path / "runs.jsonl").read_text().splitlines()[-1] if its.about else ""
        write_bytes(its.path / hosting.STOPPED, b"by its coordinator\n", private=True)
        flwr(folder, "stop", str(json.loads(last)["run"]), CONNECTION)
        return
    path = folder / "run.pid"
    try:
        pid = int(path.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no server runs for {folder}") from error
    end = time.monotonic() + STOPPING
    while path.exists() and time.monotonic() < end:
        time.sleep(0.2)


def status(folder: Path) -> dict[str, Any]:
    settings, rows = load(folder), admitted.admitted(folder)
    studies: dict[str, Any] = {}
    for path in sorted((folder / "studies").glob("*/plan.json")):
        its = hosting.Study(path.parent)
        studies[path.parent.name] = _where(its)
    return {
        "running": healthy(folder),
        "listen": settings.listen,
        "certificate_days_left": round(certificates.days_left(folder / "tls" / "server.pem"), 1),
        "admitted": {
            name: "registered" if row.node else "waits for the server to run" for name, row in rows.items()
        },
        "studies": studies,
    }


def _where(its: hosting.Study) -> Mapping[str, Any]:
    lines, about = its.history(), its.about
    last = lines[-1] if lines else {}
    return {
        "round": last.get("round", 0),
        "rounds": about["rounds"],
        "done": its.done,
        "at_work": at_work(its),
        "stopped": _read(its.path / hosting.STOPPED),
        "replied": sorted(last.get("silos", {})),
        "left_out": last.get("left_out", {}),
    }


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


def at_work(its: hosting.Study) -> bool:
    """Whether a ServerApp has the study in its hands."""
    handle = os.open(its.path / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)
