"""Describe the machine of a measurement, without host name and paths; measure memory."""

import os
import platform
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "torchvision", "numpy", "flwr", "ray")


def description(elsewhere: Mapping[str, str] | None = None) -> dict[str, object]:
    """
    Describe this machine and the code that is measured. ``elsewhere``: packages with interpreters of their own, by the package.
    """
    return {
        **code(),
        "cpu": cpu(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
            **{package: _version_there(package, python) for package, python in (elsewhere or {}).items()},
        },
    }


def code(folder: Path = HERE) -> dict[str, object]:
    """
    Return the commit of the clone that a folder is in, and whether its files were changed since, results of earlier measurements
    aside. Both are None where there is no git, or no clone.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ":/", ":(exclude,top)*.json")
    return {"commit": commit, "changed": None if changes is None else bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug() -> str:
    """The name of a file of results, such as ``amd-epyc-2-cores``."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu()} {cores()} cores".lower()).strip("-")


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _version_there(package: str, python: str) -> str | None:
    code = f"from importlib import metadata; print(metadata.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def resident_mib() -> float:
    """Anonymous and shared resident memory of this process, without files of libraries; 0 if unknown."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE)) / 1024


class PeakMemory:
    """The largest value of ``resident_mib`` within the ``with`` block, measured twenty times per second."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.mib = max(self.mib, resident_mib())

    def _watch(self) -> None:
        while not self._over.is_set():
            self.mib = max(self.mib, resident_mib())
            time.sleep(0.05)
