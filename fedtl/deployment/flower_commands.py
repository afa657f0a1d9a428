"""Flower's commands, and the environment that they run in: no telemetry, no update check, no installing of packages, and no proxy for connections to this machine."""

import os
import sys
from pathlib import Path

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def flower_environment(folder: Path, **more: str) -> dict[str, str]:
    """
    Return the environment for a process that fedtl starts. Flower's files and torch's cache are under ``folder``: torch's
    default is a folder with a predictable name in the shared temporary folder, which another user could create first.
    """
    commands = Path(sys.executable).parent
    path = os.pathsep.join([str(commands), os.environ.get("PATH", os.defpath)])
    no_proxy = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY", "")]))
    return {
        **os.environ,
        **OFFLINE,
        "NO_PROXY": no_proxy,
        "FLWR_HOME": str(folder / "flwr"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "flwr" / "torch"),
        "PATH": path,
        **more,
    }
