"""Talking to the coordinator's own SuperLink: whether it is up, and Flower's own commands."""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from fedtl.deployment.coordinator.settings import load
from fedtl.deployment.flower_commands import environment, tool
from fedtl.errors import ConfigError

CONNECTION = "fedtl"  # what Flower's command line calls our SuperLink
HEALTHY = 60.0  # seconds for a SuperLink to come up


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
