"""
A folder that is removed when its process ends, however it ends.

Each folder is locked by its process. Making one also removes older folders whose lock is free: those of killed processes,
which in shared memory would stay until the machine restarts.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = "fedtl-", ".lock"
SHARED_MEMORY = "/dev/shm"


@contextmanager
def temporary_folder(parent: str | None = None) -> Iterator[Path]:
    """A new folder that only this user can read, in ``parent`` or in the system's temporary folder."""
    _remove_unlocked(Path(parent or tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def adopt_folder(folder: Path) -> None:
    """
    Use another process's temporary folder. On the same machine it exists; on another machine it is made, and removed when
    the last process there that uses it ends.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    atexit.register(_remove_if_last, folder, lock)


def _remove_if_last(folder: Path, lock: int) -> None:
    with suppress(OSError):  # another process still holds the lock
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def memory_folder() -> str | None:
    """The folder whose files are in memory, or None where the system has none."""
    return SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None


def _remove_unlocked(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # another user's folder, or its process still holds the lock
            lock = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)
