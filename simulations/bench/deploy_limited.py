"""One measurement in a process of its own, which ends within a limit with everything that it started. What it found until then is kept."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.real_processes import alive, descendants

CLOSE_SECONDS = 60.0  # that a measurement may take to end its own processes
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ended:
    """``code``: the exit code; None where the limit was reached. ``left``: how many processes were still there and were killed."""

    code: int | None
    seconds: float
    left: int


def run_limited(command: Sequence[str], limit: float) -> Ended:
    """
    Run a command for at most ``limit`` seconds. Then it gets SIGTERM, and after ``CLOSE_SECONDS`` it and all that it started are
    killed, in whatever session they are. They also end where this process is interrupted.
    """
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    started: set[int] = set()
    try:
        while process.poll() is None and time.monotonic() - began < limit:
            started |= {pid for pid, _ in descendants(process.pid)}
            time.sleep(POLL_SECONDS)
        code = process.poll()
    finally:
        started |= {pid for pid, _ in descendants(process.pid)}
        try:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(CLOSE_SECONDS)
        finally:  # also where a second signal interrupts the wait
            left = [pid for pid in {process.pid, *started} if alive(pid)]
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    return Ended(code, time.monotonic() - began, len(left))
