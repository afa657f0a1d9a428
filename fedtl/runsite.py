"""The processes of an institution: the pinned SuperNode, and the SuperExec that starts its ClientApp for each round."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fedtl.home.folder import LOCATION, Home
from fedtl.provision.tools import environment, tool
from fedtl.supervise import supervise

PARTS = ("node", "exec")


def commands(home: Home, parts: Sequence[str]) -> dict[str, list[str]]:
    secret = ["--superexec-auth-secret-file", str(home.path / "exec.secret")]
    made = {
        "node": [sys.executable, "-m", "fedtl.site", str(home.path)],
        # Between two processes of one machine, on its loopback, under a shared secret: no certificate is needed.
        "exec": [
            *(tool("flower-superexec"), "--insecure"),
            *("--runtime-api-address", f"127.0.0.1:{home.settings.port}", *secret),
        ],
    }
    return {part: made[part] for part in parts}


def run_site(folder: Path, parts: Sequence[str]) -> int:
    """Until one of them ends; the exit code. The same key is refused for a minute after a crash: start again then."""
    home = Home.open(folder)
    os.umask(0o077)
    around = environment(home.path, **{LOCATION: str(home.path)})
    ended, code = supervise(commands(home, parts), dict.fromkeys(PARTS, around))
    return 0 if not ended else code or 1
