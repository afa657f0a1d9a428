"""Supervised processes end together, with their children."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fedtl.deployment.supervise import supervise
from tests.real_processes import alive, around, descendants, wait

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "open(sys.argv[1], 'w').write(str(p.pid)); time.sleep(60)",
]


def test_when_one_process_ends_all_end_with_their_children(tmp_path):
    grandchild = tmp_path / "pid"
    short = [
        sys.executable,
        "-c",
        f"import os, time\nwhile not os.path.exists({str(grandchild)!r}): time.sleep(0.1)\ntime.sleep(0.3)\nraise SystemExit(7)",
    ]
    begun = time.monotonic()
    ended = supervise(
        {"long": [*PARENT, str(grandchild)], "short": short}, dict.fromkeys(("long", "short"), around())
    )
    assert ended == ("short", 7)
    assert time.monotonic() - begun < 30
    wait("end of the grandchild", lambda: not alive(int(grandchild.read_text())), 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_no_failure(number, tmp_path):
    code = (
        "import sys; from fedtl.deployment.supervise import supervise\n"
        f"ready = lambda processes: open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        f"sys.exit(repr(supervise({{'one': {SLEEP!r}}}, {{'one': {{}}}}, ready)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=around(), stderr=subprocess.PIPE, text=True)
    wait("start", (tmp_path / "ready").exists, 20)
    process.send_signal(number)
    assert process.communicate(timeout=30)[1].strip() == "('', 0)"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_processes_end_with_their_killed_parent(tmp_path):
    code = (
        "import os; from fedtl.deployment.supervise import supervise\n"
        f"supervise({{'one': {[*PARENT, str(tmp_path / 'grandchild')]!r}, 'two': {SLEEP!r}}},"
        " {'one': os.environ, 'two': os.environ})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=around())
    own = tmp_path / "grandchild"
    wait("start", lambda: own.exists() and own.read_text() and len(descendants(process.pid)) == 3, 20)
    started = [pid for pid, _ in descendants(process.pid) if pid != int(own.read_text())]
    process.kill()
    process.wait()
    wait("end of both", lambda: not any(map(alive, started)), 20)
    os.kill(int(own.read_text()), signal.SIGKILL)  # its parent's own concern
