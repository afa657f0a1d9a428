"""
A folder for as long as a process lives, gone with it however it ended.

Each folder is locked by its process. Who makes one looks for others whose lock nobody holds any more, left behind by
a kill, and removes them: what lies in shared memory would otherwise stay there until the machine restarts.
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
MEMORY = "/dev/shm"


@contextmanager
def scratch(above: str | None = None) -> Iterator[Path]:
    """A new folder that this user alone can read, below ``above`` or the system's place for temporary files."""
    _sweep(Path(above or tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def adopt(folder: Path) -> None:
    """
    Make sure of another process's scratch folder: on its machine it is there; on another one it is made, and goes
    with the last process that adopted it.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    atexit.register(_leave, folder, lock)


def _leave(folder: Path, lock: int) -> None:
    with suppress(OSError):  # somebody else still holds it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> str | None:
    """Where files lie in memory, if the system has such a place."""
    return MEMORY if os.access(MEMORY, os.W_OK) else None


def _sweep(above: Path) -> None:
    for path in above.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # another user's, or somebody still holds the lock
            lock = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)
