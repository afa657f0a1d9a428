"""Ctrl-C, kill -9, and resumption: real processes, started as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.runs import SMALL
from tests.commands import fedtl

ALONE = [
    "--set",
    "engine.name=serial",
    "--set",
    "data.limit=40",
]  # the next test presses Ctrl-C while workers train


def enable_ctrl_c():
    """Handle SIGINT as in a terminal: a shell ignores it in background processes, and child processes inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def press_ctrl_c(child):
    """Send SIGINT up to 10 times, because an import may ignore one. A shell shows both return codes as 130."""
    for _ in range(10):
        os.killpg(child.pid, signal.SIGINT)
        try:
            _, errors = child.communicate(timeout=6)
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        child.kill()
        _, errors = child.communicate()
    assert child.returncode in (130, -signal.SIGINT), errors
    return errors


@pytest.mark.slow
def test_ctrl_c_is_exit_130_and_resumable(tmp_path):
    path = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "fedtl",
        "run",
        "digits",
        *ALONE,
        "--set",
        "rounds=5000",
        "--out",
        str(path),
    ]
    child = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path / "checkpoint" / "state.pt").exists():
        time.sleep(0.05)
    errors = press_ctrl_c(child)
    assert f"fedtl run --resume {path}" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_ctrl_c_before_the_first_round_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "fedtl", "run", "digits", "--set", "train.epochs=9999"]
    child = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("runs/*/experiment.toml")):
        time.sleep(0.05)
    errors = press_ctrl_c(child)
    assert errors.startswith("interrupted; ")
    assert "--resume" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly  # tests/experiment/test_tuning.py does it in one process
def test_an_interrupted_comparison_resumes_to_the_same_result(tmp_path):
    """Two runs side by side, killed and resumed, give what they give one after another."""
    words = ["--methods", "local,fedtl", "--seeds", "0", *SMALL[:4], "--set", "method.tune.epochs=1"]
    done = fedtl("compare", "digits", *words, "--workers", "1", "--json", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert set(whole["benefit"]) == {"plain", "inverted", "blurred", "faint", "rotated", "textured"}
    assert all(its["best"] == "fedtl" for its in whole["benefit"].values())

    child = subprocess.Popen(
        [sys.executable, "-m", "fedtl", "compare", "digits", *words, "--out", str(tmp_path / "b")],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "b").glob("runs/*/checkpoint/state.pt")):
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    rest = fedtl("compare", "--resume", tmp_path / "b", "--json")
    assert rest.returncode == 0, rest.stderr
    again = json.loads(rest.stdout)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in whole.items() if k != "seconds"
    }
    assert fedtl("report", tmp_path / "b").returncode == 0


@pytest.mark.slow
def test_no_worker_outlives_a_killed_command(tmp_path):
    """Workers exit when the command is killed with kill -9 during training."""
    command = [sys.executable, "-m", "fedtl", "compare", "digits", "--methods", "local,fedtl", "--seeds", "0"]
    command += ["--set", "rounds=20000", "--set", "data.limit=40", "--quiet", "--out", str(tmp_path / "run")]
    child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "run").glob("runs/*/checkpoint/state.pt")):
        time.sleep(0.05)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(child.pid):
        time.sleep(0.1)
    assert not _alive(child.pid)


def _alive(group):
    """Return whether a process of the group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
