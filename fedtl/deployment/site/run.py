"""The processes of an institution: the pinned SuperNode, and the SuperExec that starts its ClientApp for each round."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fedtl.deployment.flower_commands import environment
from fedtl.deployment.site.home import LOCATION, Home
from fedtl.deployment.supervise import supervise

PARTS = ("node", "exec")


def commands(home: Home, parts: Sequence[str]) -> dict[str, list[str]]:
    python = [sys.executable, "-P", "-m"]  # -P: nothing that lies in the working folder is imported
    made = {
        "node": [*python, "fedtl.deployment.site.supernode", str(home.path)],
        "exec": [*python, "fedtl.deployment.site.superexec", str(home.path)],
    }
    return {part: made[part] for part in parts}


def run_site(folder: Path, parts: Sequence[str]) -> int:
    """Until one of them ends; the exit code. After a crash the same key is refused for two heartbeats: start again then."""
    home = Home.open(folder)
    os.umask(0o077)
    around = environment(home.path, **{LOCATION: str(home.path)})
    ended, code = supervise(commands(home, parts), dict.fromkeys(PARTS, around))
    return 0 if not ended else code or 1
