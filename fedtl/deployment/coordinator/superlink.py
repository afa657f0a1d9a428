"""Calls the coordinator's own SuperLink: whether it runs, and Flower's commands."""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.flower_commands import find_command, flower_environment
from fedtl.errors import ConfigError

CONNECTION = "fedtl"  # the name of our SuperLink in the configuration of Flower's command line
START_SECONDS = 60.0  # that a SuperLink may take to start


def is_healthy(folder: Path) -> bool:
    settings = load_server_settings(folder)
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.crt"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"https://127.0.0.1:{settings.port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_until_healthy(folder: Path) -> None:
    """Wait until the SuperLink answers. Raises ConfigError after ``START_SECONDS``."""
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(folder):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the SuperLink of {folder} did not start within {START_SECONDS:g} s; see the output of fedtl server run"
            )
        time.sleep(0.3)


def flwr(folder: Path, *words: str) -> dict[str, Any]:
    """Run one of Flower's commands and return the JSON that it prints. Raises ConfigError where it fails."""
    finished = subprocess.run(
        [find_command("flwr"), *words, "--format", "json"],
        env=flower_environment(folder.absolute()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    try:
        reply: dict[str, Any] = json.loads(finished.stdout)
    except ValueError:
        reply = {}
    if finished.returncode or not reply.get("success"):
        reason = reply.get("error-message") or (finished.stderr or finished.stdout).strip()[-300:]
        raise ConfigError(f"flwr {' '.join(words[:2])}: {' '.join(str(reason).split())}")
    return reply
