"""
Processes that live and die together: when one ends, or this one is told to or is killed, all end. Whoever started us
(systemd, a container) starts all again.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType

GRACE = 15.0  # seconds between a request to end and the end
LOOK = 0.2
PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux' prctl


def supervise(
    commands: Mapping[str, Sequence[str]],
    environments: Mapping[str, Mapping[str, str]],
    ready: Callable[[], None] | None = None,
) -> tuple[str, int]:
    """
    Run them until the first one ends or SIGTERM or SIGINT comes; ``ready`` is called once all are started. Returns
    which one ended and its exit code; ("", 0) where we were told to end.
    """
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    started: dict[str, subprocess.Popen[bytes]] = {}
    bound = _bound(os.getpid())
    try:
        for name, command in commands.items():
            started[name] = subprocess.Popen(
                command,
                env=dict(environments[name]),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=bound,
            )
        if ready:
            ready()
        while not told:
            for name, process in started.items():
                if (code := process.poll()) is not None:
                    return name, code
            time.sleep(LOOK)
        return "", 0
    finally:
        for process in started.values():
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + GRACE
        for process in started.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            _signal(process, signal.SIGKILL)  # and those that it started, which may outlive it
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _bound(parent: int) -> Callable[[], None] | None:
    """
    For a new process to call before it becomes its command: from then on the kernel tells it to end when its parent
    does, after kill -9 too. None where there is no such kernel. What it starts itself is its own to end.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        return None

    def bind() -> None:
        prctl(PARENT_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # it was quicker
            os._exit(1)

    return bind


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To the process and what it started: each has a group of its own."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
