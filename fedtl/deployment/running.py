"""One process a part and folder: a lock that names its holder, and a line that says which part ended and why."""

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from fedtl.errors import ConfigError

MIN_FREE_BYTES = 1 << 30  # below which status and check say that the disk is nearly full
ROUND_BYTES = 256 << 20  # below which a site refuses a round, and a coordinator begins none


@contextmanager
def only_one(folder: Path, parts: Sequence[str], command: str) -> Iterator[None]:
    """
    Hold the lock of each part in ``folder``. The lock of a process that died is free. ``command``: which command holds it. Raises
    ConfigError, with the other process, where one is held.
    """
    with ExitStack() as held:
        for part in parts:
            path = folder / f".{part}.pid"
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            held.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                pid = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
                raise ConfigError(
                    f"{command} runs already for {folder} (part {part}, process {pid}); stop it first, or use another folder"
                ) from error
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield


def holders(folder: Path, parts: Sequence[str]) -> dict[str, int]:
    """Return the process that holds the lock of each part that runs. Raises ConfigError where it runs in another container."""
    held = {}
    for part in parts:
        path = folder / f".{part}.pid"
        with suppress(FileNotFoundError), path.open() as lock:
            if not _locked(lock):
                continue
            pid = int(lock.read() or 0)
            if _has_open(pid, path):
                held[part] = pid
            elif _locked(lock):  # otherwise it has ended meanwhile
                raise ConfigError(
                    f"part {part} of {folder} is running, but process {pid} is not on this machine; stop the container that runs it"
                )
    return held


def _locked(lock: IO[str]) -> bool:
    """Whether another process holds the lock of this file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has the file open. A number that another container wrote names a stranger here. Without /proc it is believed."""
    if not Path("/proc/self/fd").is_dir():
        return pid > 1
    with suppress(OSError):
        return any(file.exists() and file.samefile(path) for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


def ended_line(part: str, code: int, reason: str = "", last_line: str = "") -> str:
    """
    Return the line that says how a part ended. ``code``: as subprocess gives it, negative for a signal. ``last_line``: its last one,
    or its last error, which is shown where no ``reason`` is known.
    """
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        how = f"was killed by {name}"
    else:
        how = f"ended with exit code {code}"
    if last_line and not reason:
        reason = f'its last line was "{last_line}"'
    return f"part {part} {how}{f': {reason}' if reason else ''}; the other parts were stopped"


def free_space(folder: Path) -> str:
    """Return how much of the disk of ``folder`` is free, and that this is too little where it is."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free"
    return (
        text if free >= MIN_FREE_BYTES else f"{text}, less than {MIN_FREE_BYTES / 2**30:.0f} GiB: make room"
    )


def no_room(folder: Path) -> str:
    """Return what to do where the disk of ``folder`` has too little room for a round; "" where it has enough."""
    if (free := shutil.disk_usage(folder).free) >= ROUND_BYTES:
        return ""
    return f"{free:,} bytes of disk are free at {folder}; a round needs {ROUND_BYTES:,}; make room"
