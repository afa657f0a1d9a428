"""The studies of a coordinator: begun, taken up again, stopped, looked at."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from fedtl._util.files import write_bytes
from fedtl.deployment import certificates
from fedtl.deployment.coordinator import admitted
from fedtl.deployment.coordinator import study as hosting
from fedtl.deployment.coordinator.bundle import Bundle
from fedtl.deployment.coordinator.settings import load
from fedtl.deployment.coordinator.sites import named, tell
from fedtl.deployment.coordinator.superlink import CONNECTION, flwr, healthy, wait_healthy
from fedtl.errors import ConfigError
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role


def resume(folder: Path) -> None:
    """Once the SuperLink is up: tell it who is admitted, and go on with what was interrupted."""
    wait_healthy(folder)
    tell(folder)
    for study in sorted((folder / "studies").glob("*/runs.jsonl")):
        its = hosting.HostedStudy(study.parent)
        if its.done or (study.parent / hosting.STOPPED).exists():
            continue
        with suppress(ConfigError):  # a site may wait for the rest of a message of the run that died: no more
            _end(folder, its)
        try:
            _submit(folder, Bundle(folder / "bundles" / its.about["bundle_name"]), its)
        except ConfigError as error:  # the others go on
            write_bytes(its.path / hosting.STOPPED, f"{error}\n".encode(), private=True)


def start(folder: Path, bundle_name: str, study_name: str) -> hosting.HostedStudy:
    """Begin a study, or go on with it. Raises ConfigError."""
    settings, its = load(folder), Bundle(folder / "bundles" / bundle_name)
    if not its.file.is_file():
        known = sorted(path.name for path in (folder / "bundles").glob("*"))
        raise ConfigError(
            f"there is no bundle {bundle_name!r}; there are {', '.join(known) or 'none: fedtl server bundle'}"
        )
    about = its.about
    plan = FederationConfig(
        study_name,
        about["seed"],
        about["rounds"],
        ServerStep(**about["server"]),
        about["silos_per_round"],
        about["minimum_silos"],
    )
    more: dict[str, Any] = {key: about[key] for key in ("bundle", "plan", "private") if key in about}
    more |= {"bundle_name": bundle_name, "deadline": settings.deadline, "tries": settings.tries}
    first = load_file(its.folder / "start.safetensors")
    roles = {name: Role(role) for name, role in about["roles"].items()}
    study = hosting.HostedStudy.create(folder / "studies" / named(study_name), plan, roles, first, more)
    if study.done:
        raise ConfigError(f"study {study_name!r} is done; its result is in {study.path}")
    if at_work(study):
        raise ConfigError(
            f"study {study_name!r} is at work already; to stop it: fedtl server stop {folder} --study {study_name}"
        )
    if not healthy(folder):
        raise ConfigError(f"no SuperLink runs for {folder}: fedtl server run {folder}")
    tell(folder)
    _submit(folder, its, study)
    return study


def _submit(folder: Path, its: Bundle, study: hosting.HostedStudy) -> None:
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
        line = json.dumps({"run": told["run-id"], "at": time.time()})
        file.write(f"\n{line}\n")  # the one before may be torn
        file.flush()
        os.fsync(file.fileno())


def stop(folder: Path, study_name: str) -> None:
    """It can be started again. Raises ConfigError."""
    its = hosting.HostedStudy(folder / "studies" / study_name)
    if its.about:
        write_bytes(its.path / hosting.STOPPED, b"by its coordinator\n", private=True)
        _end(folder, its)


def _end(folder: Path, its: hosting.HostedStudy) -> None:
    """Of its last Flower run. Raises ConfigError where that has ended, or where none was written down."""
    last = None
    for text in (its.path / "runs.jsonl").read_text(errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a crash tore
            last = str(json.loads(text)["run"])
    if last is None:
        raise ConfigError(f"no run of study {its.path.name!r} was written down")
    flwr(folder, "stop", last, CONNECTION)


def status(folder: Path) -> dict[str, Any]:
    settings, rows = load(folder), admitted.admitted(folder)
    studies: dict[str, Any] = {}
    for path in sorted((folder / "studies").glob("*/plan.json")):
        its = hosting.HostedStudy(path.parent)
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


def _where(its: hosting.HostedStudy) -> Mapping[str, Any]:
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


def at_work(its: hosting.HostedStudy) -> bool:
    """Whether a ServerApp has the study in its hands."""
    handle = os.open(its.path / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)
