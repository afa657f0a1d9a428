"""How many cores this process may use: fewer than the machine has, where a scheduler or a container limits it."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(
    environment: Mapping[str, str] | None = None, cgroups: Path = CGROUPS, own: Path = OWN_CGROUP
) -> int:
    """
    Return the smallest of: the cores that the process may run on, those that SLURM gives a task (``SLURM_CPUS_PER_TASK``; without it
    SLURM binds the process to its cores where a cluster is configured so), and the share of time that the process' cgroup allows.
    """
    environment = os.environ if environment is None else environment
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [free]
    given = environment.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal() and int(given):
        limits.append(int(given))
    limits += [math.ceil(limit) for limit in _of_cgroups(cgroups, own) if limit > 0]
    return max(1, min(limits))


def _of_cgroups(cgroups: Path, own: Path) -> list[float]:
    """Return the limits of the process' group and of all above it, in cores; of version 2, and of the controller "cpu" of version 1."""
    limits = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        folder = root / path.lstrip("/")
        for one in (folder, *folder.parents):
            if one.is_relative_to(root):
                limits += _limit(one)
    return limits


def _limit(folder: Path) -> list[float]:
    """Return the limit of one group in processors, if it has one: its microseconds of work in each period, divided by the period."""
    version_1 = (_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
    words = _text(folder / "cpu.max").split() or [word.strip() for word in version_1]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return []  # "max", or -1 in version 1
    return [int(words[0]) / int(words[1])]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
