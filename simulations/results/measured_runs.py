"""
How is a comparison run, and which command, commit and machine are its numbers from?

A comparison that its folder already holds finished is not run again; one that was interrupted is continued.
"""

import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "bench"))
import machine  # noqa: E402


@dataclass(frozen=True)
class Origin:
    """
    Where numbers come from. ``seconds``: on the clock, other work on the machine included; ``cpu_seconds``: of the run alone. Both
    are of the part after the last interruption where ``interrupted``.
    """

    command: str
    commit: str
    machine: str
    seconds: int = 0
    cpu_seconds: int = 0
    interrupted: bool = False


def finished(folder: Path) -> Origin | None:
    """Return the origin of the comparison in ``folder``; None where it is not finished."""
    stamp = folder.with_name(f"{folder.name}.origin.json")
    if (folder / "comparison.json").exists() and stamp.exists():
        return Origin(**json.loads(stamp.read_text()))
    return None


def run(name: str, folder: Path, changes: Sequence[str] = ()) -> Origin:
    """
    Run the comparison into ``folder``, continue the interrupted one there, or return the origin of the finished one. ``changes``:
    settings that differ from those of the file, as --set takes them; an interrupted comparison keeps its own.
    """
    if (origin := finished(folder)) is not None:
        return origin
    words = [
        "compare",
        f"simulations/{name}.toml",
        *(word for change in changes for word in ("--set", change)),
    ]
    changed = _git(
        "status", "--porcelain", "--", ":/fedtl", ":/simulations/*.toml"
    )  # not what earlier runs wrote
    commit = _git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    about = f"{machine.cpu()}, {machine.cores()} cores, load {machine.description()['load_before']}"
    interrupted = (folder / "experiment.toml").exists()
    started = ["compare", "--resume", str(folder)] if interrupted else [*words, "--out", str(folder)]
    clock, before = time.perf_counter(), _cpu_of_children()
    subprocess.run([sys.executable, "-m", "fedtl", *started], cwd=HERE.parents[1], check=True)
    origin = Origin(
        *(shlex.join(["fedtl", *words]), commit, about),
        *(round(time.perf_counter() - clock), round(_cpu_of_children() - before)),
        interrupted,
    )
    folder.with_name(f"{folder.name}.origin.json").write_text(json.dumps(asdict(origin)))
    return origin


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()
