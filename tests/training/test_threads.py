"""A process that trains uses the memory again that it frees."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from fedtl.training import threads as machine
if {settled}: machine.set_threads(1)
else: torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU())
x = torch.randn(32, 3, 28, 28)
def step():
    net(x).sum().backward()
for _ in range(20): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library of C")
def test_freed_memory_is_used_again():
    """With each page fault the system provides a page of zeros; without the setting there are hundreds in each step."""

    def faults(settled):
        code = FAULTS.format(settled=settled)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        count, threads = map(int, done.stdout.split())
        assert threads == 1
        return count

    # How many faults the default costs depends on where the process's memory happens to lie (4,600 to 10,000 seen);
    # with the setting there are next to none.
    assert 4 * faults(True) < faults(False)


@pytest.mark.parametrize("libc", ["", "musl"])
def test_other_libraries_are_left_alone(libc, monkeypatch):
    import torch

    from fedtl.training import threads as machine

    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, ""))
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("asked for"))
    machine.set_threads(torch.get_num_threads())
