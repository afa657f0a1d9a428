"""Supervised processes end together, with their children."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from fedtl.deployment.last_line import LINE_CHARACTERS
from fedtl.deployment.supervise import supervise
from fedtl.errors import ConfigError
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
    assert ended == ("short", 7, "")
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
    assert process.communicate(timeout=30)[1].strip() == "('', 0, '')"


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


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ("echo first >&2; echo why >&2; echo no >&1; exit 3", "why"),
        ("printf 'why\\n\\n  \\n' >&2; exit 3", "why"),
        (r"printf '\033[91mERROR\033[0m: \a why\r\n' >&2; exit 3", "ERROR:  why"),
        ("printf 'no end of line' >&2; exit 3", "no end of line"),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 3", "x" * LINE_CHARACTERS + "..."),
        ("yes line | head -n 50000 >&2; echo why >&2; exit 3", "why"),
        ("(sleep 60)& echo why >&2; exit 3", "why"),  # its child has the pipe open
        ("exit 3", ""),
        ("echo why; exit 3", "why"),
        (
            "echo '[Errno 98] ERROR address in use'; echo stopping >&2; exit 3",
            "[Errno 98] ERROR address in use",
        ),
        (
            "echo Traceback >&2; echo app.BadError: why >&2; echo INFO [x.error] bye >&2; exit 3",
            "app.BadError: why",
        ),
    ],
)
def test_the_last_line_of_the_process_that_ended_is_kept(script, last, capfdbinary):
    """And everything that it wrote is copied, without colours and what moves the cursor."""
    assert supervise({"one": ["sh", "-c", script]}, {"one": around()}) == ("one", 3, last)
    said = capfdbinary.readouterr()
    plain = re.sub(r"\\033\[91m|\\033\[0m|\\a|\\r", "", script.replace("(sleep 60)&", ""))
    done = subprocess.run(["sh", "-c", plain], capture_output=True)
    assert said == (done.stdout, done.stderr)


def test_what_a_process_writes_controls_no_terminal(capfdbinary):
    """Nor in two parts, nor with a control character of Latin 1. Letters of two bytes stay, also in two parts."""
    script = r"printf 'a\033'; sleep 0.3; printf '[2Jb\302\233c\303'; sleep 0.3; printf '\251\td\n'; exit 3"
    assert supervise({"one": ["sh", "-c", script]}, {"one": around()})[:2] == ("one", 3)
    assert capfdbinary.readouterr().out.decode() == "a[2Jbcé\td\n"


def test_the_part_that_ended_is_said_and_not_what_failed_because_of_it():
    def ready(processes):
        os.waitid(os.P_PID, processes["one"], os.WEXITED | os.WNOWAIT)
        raise ConfigError("the SuperLink did not start")

    commands = {"one": ["sh", "-c", "echo why >&2; exit 3"], "two": SLEEP}
    assert supervise(commands, dict.fromkeys(commands, around()), ready) == ("one", 3, "why")
    with pytest.raises(ConfigError, match="did not start"):
        supervise(
            {"two": SLEEP},
            {"two": around()},
            lambda processes: (_ for _ in ()).throw(ConfigError("did not start")),
        )


def test_what_a_process_writes_is_copied_at_once_and_a_closed_terminal_does_not_hold_it_up(tmp_path):
    """A line without an end too, such as a question. Afterwards the process goes on, although nobody reads what it writes."""
    go, script = (
        tmp_path / "go",
        "printf 'ready?' >&2; until [ -e {0} ]; do sleep 0.1; done; yes | head -c 1000000 >&2; echo why >&2; exit 3",
    )
    code = (
        "from fedtl.deployment.supervise import supervise\n"
        f"print(supervise({{'one': ['sh', '-c', {script.format(go)!r}]}}, {{'one': {{}}}}))"
    )
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, env=around(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert os.read(process.stderr.fileno(), 100) == b"ready?"
        process.stderr.close()
        go.touch()
        assert process.communicate(timeout=30)[0] == b"('one', 3, 'why')\n"
    finally:
        process.kill()
        process.wait()
