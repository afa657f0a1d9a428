"""Files that are whole after a kill or a power cut: written beside, synced, renamed, and the folder synced."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, fill: Callable[[Path], object], private: bool = False) -> None:
    """
    Atomically and durably: a reader sees the old file or the new one, never a part of it. ``private``: for its owner
    alone (0600) from its first byte, in folders that are (0700) where they have to be made.
    """
    make_folder(path.parent, private)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        if private:
            os.close(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        fill(new)
        if private:
            new.chmod(0o600)  # whoever filled it may have made it anew
        with new.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def write_bytes(path: Path, content: bytes, private: bool = False) -> None:
    write(path, lambda file: file.write_bytes(content), private)


def make_folder(path: Path, private: bool = False) -> None:
    """With those above it; for its owner alone where it is made here and is ``private``."""
    if not path.is_dir():
        make_folder(path.parent, private)
        path.mkdir(0o700 if private else 0o777, exist_ok=True)


def sync(folder: Path) -> None:
    """What was made or renamed in it is so after a power cut, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process in the folder at a time; one that died has let go."""
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
