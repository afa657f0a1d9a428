"""The number of cores, as a scheduler or a container limits it."""

import os

import pytest

from fedtl.simulation.cores import usable_cores

FREE = len(os.sched_getaffinity(0))


def files(folder, **texts):
    for path, text in texts.items():
        file = folder / path.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return {"cgroups": folder / "groups", "own": folder / "own"}


@pytest.mark.parametrize(
    ("given", "cores"), [("1", 1), ("9999", FREE), ("", FREE), ("0", FREE), ("8(x2)", FREE)]
)
def test_of_slurm(tmp_path, given, cores):
    assert usable_cores({"SLURM_CPUS_PER_TASK": given}, **files(tmp_path)) == cores


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("100000 100000", 1),
        ("150000 100000", min(2, FREE)),
        ("1000 100000", 1),
        ("max 100000", FREE),
        ("", FREE),
    ],
)
def test_of_a_container(tmp_path, limit, cores):
    """The limit is of the group above the process' own, as for a step of a job."""
    made = files(tmp_path, own="0::/job/step\n", groups__job__cpu_dot_max=limit + "\n")
    assert usable_cores({}, **made) == cores


@pytest.mark.parametrize(("quota", "cores"), [("100000", 1), ("-1", FREE)])
def test_of_cgroups_of_version_1(tmp_path, quota, cores):
    group = "groups__cpu,cpuacct__job__cpu_dot_cfs_"
    texts = {f"{group}quota_us": quota + "\n", f"{group}period_us": "100000\n"}
    made = files(tmp_path, own="3:memory:/job\n2:cpu,cpuacct:/job\n", **texts)
    assert usable_cores({}, **made) == cores
