"""Flower's own commands, and the surroundings they run in: no telemetry, no update check, no installing, no proxy on the way to this machine itself."""

import os
import shutil
import sys
from pathlib import Path

from fedtl.errors import ConfigError

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def tool(name: str) -> str:
    """The command that is installed beside this Python. Raises ConfigError."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return str(beside)
    if found := shutil.which(name):
        return found
    raise ConfigError(f'{name} is not installed: pip install "fedtl[flower]"')


def environment(folder: Path, **more: str) -> dict[str, str]:
    """
    For a process of ours: Flower's files and torch's cache under ``folder`` (the latter's usual place in the shared
    temporary folder has a name that anybody can take), its commands on the path.
    """
    here = Path(sys.executable).parent
    path = os.pathsep.join([str(here), os.environ.get("PATH", os.defpath)])
    direct = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY", "")]))
    return {
        **os.environ,
        **QUIET,
        "NO_PROXY": direct,
        "FLWR_HOME": str(folder / "flwr"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "flwr" / "torch"),
        "PATH": path,
        **more,
    }
