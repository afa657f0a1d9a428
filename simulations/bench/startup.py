"""
The start-up: how long ``fedtl --help`` takes, and ``fedtl run`` until its first round begins. Each is a new process; the first of each
is not counted, so torch is in the file cache.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import bars
from measure import HERE, Times

LIMIT_SECONDS = 120.0  # until the first round is done
PAUSE = 0.005  # seconds between two looks at the history of the run
FEDTL = [sys.executable, "-m", "fedtl"]


def measure_startup(repeats: int) -> dict[str, Times]:
    """Return the times of both commands, which take turns. Raises SystemExit where one fails."""
    helps, runs = [], []
    for _ in range(repeats + 1):
        helps.append(_help())
        runs.append(_to_the_first_round())
    return {
        bars.HELP: Times(helps[1:], helps[1:], in_turn=True),
        bars.RUN: Times(runs[1:], helps[1:], in_turn=True),
    }


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE.parents[1])}


def _help() -> float:
    clock = time.perf_counter()
    subprocess.run([*FEDTL, "--help"], env=_environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - clock


def _to_the_first_round() -> float:
    """Return the seconds until the first line of the history is there, less those that the round took; then end the run."""
    with TemporaryDirectory(prefix="fedtl-bench-", ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "run"
        command = [*FEDTL, "run", "digits", "--out", str(out), "--quiet"]
        clock = time.perf_counter()
        process = subprocess.Popen(
            command, env=_environment(), stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            line = _first_line(process, out / "history.jsonl", clock + LIMIT_SECONDS)
            return time.perf_counter() - clock - float(json.loads(line)["seconds"])
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _first_line(process: "subprocess.Popen[bytes]", history: Path, end: float) -> str:
    while time.perf_counter() < end and process.poll() is None:
        text = history.read_text() if history.exists() else ""
        if "\n" in text:
            return text.splitlines()[0]
        time.sleep(PAUSE)
    raise SystemExit(f"fedtl run digits: no round within {LIMIT_SECONDS:g} s, exit code {process.poll()}")
