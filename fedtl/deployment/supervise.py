"""
Runs several processes until the first of them ends, says what it wrote last, and then ends all. They also end when this process is asked to end or
is killed. Whatever started this process (systemd, a container) starts all of them again.
"""

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from fedtl.deployment.last_line import CopiedOutput
from fedtl.errors import FedTLError

log = logging.getLogger(__name__)
GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.2
WATCH_SECONDS = 2.0
PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux' prctl


def supervise(
    commands: Mapping[str, Sequence[str]],
    environments: Mapping[str, Mapping[str, str]],
    ready: Callable[[Mapping[str, int]], None] | None = None,
    watch: Callable[[], None] | None = None,
) -> tuple[str, int, str]:
    """
    Run the commands until the first one ends, or until SIGTERM or SIGINT arrives. ``ready`` is called once all are started,
    with the process id of each, and ``watch`` every ``WATCH_SECONDS`` from then on. Return the name of the command that ended, its exit
    code and its last line (see ``CopiedOutput``); ("", 0, "") after a signal. Raises what ``ready`` raises, where all commands still run.
    """
    signals: list[int] = []

    def note_signal(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    before = {number: signal.signal(number, note_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    started: dict[str, subprocess.Popen[bytes]] = {}
    copied: dict[str, CopiedOutput] = {}
    try:
        for name, command in commands.items():
            started[name] = _start(command, environments[name])
            copied[name] = CopiedOutput(started[name])
        for each in copied.values():  # not earlier: a process with threads is not forked safely
            each.start()
        if ready:
            try:
                ready({name: process.pid for name, process in started.items()})
            except FedTLError:
                if all(process.poll() is None for process in started.values()):
                    raise  # otherwise it failed because a command ended, which the caller is informed of
        watched = time.monotonic()
        while not signals:
            for name, process in started.items():
                if (code := process.poll()) is not None:
                    return name, code, copied[name].last_line()
            if watch and time.monotonic() - watched >= WATCH_SECONDS:
                watch()
                watched = time.monotonic()
            time.sleep(POLL_SECONDS)
        return "", 0, ""
    finally:
        _end(list(started.values()))
        for each in copied.values():
            each.finish()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**environment, "PYTHONUNBUFFERED": "1"},  # otherwise Python holds back what it writes to a pipe
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_end_with_parent(os.getpid()),
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End all processes with their children: with SIGTERM, and ``GRACE_SECONDS`` later with SIGKILL."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)  # its own children may still run
        process.wait()


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """
    Return a function for a new process to call before it executes its command. From then on the kernel sends it SIGTERM
    when its parent ends, also after kill -9. It must end its own children itself. None where the kernel is not Linux.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        return None

    def bind() -> None:
        prctl(PARENT_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    return bind


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the process and its children: each command has its own process group."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


@dataclass
class Watches:
    """Calls every watch. An error of one ends nothing; it is logged once, and again when its text changes or after the watch has worked."""

    watches: Sequence[Callable[[], None]]
    _failures: dict[int, str] = field(default_factory=dict)  # what each watch, by its position, said last

    def __call__(self) -> None:
        for number, watch in enumerate(self.watches):
            try:
                watch()
            except (FedTLError, OSError, ValueError) as error:
                text = f"{type(watch).__name__}: {error}"
                if self._failures.get(number) != text:
                    self._failures[number] = text
                    log.error("%s", text)
            else:
                self._failures.pop(number, None)
