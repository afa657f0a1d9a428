"""Files that are complete after a kill or a power cut: written under another name, synced, renamed, and the folder synced."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path

from fedtl._util.records import to_plain


def write_file(
    path: Path, fill: Callable[[Path], object], private: bool = False, durable: bool = True
) -> None:
    """
    Write ``path`` atomically: a reader sees the old file or the new one, never a part of it. ``fill`` writes the content
    to the path that it is given.

    ``private``: only the owner can read the file (0600), from its first byte, and the folders that are made for it
    (0700). ``durable`` False: do not wait for the disk, for files that need not survive a power cut.
    """
    make_folder(path.parent, private)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        if private:
            os.close(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        fill(new)
        if private:
            new.chmod(0o600)  # ``fill`` may have replaced the file
        if durable:
            with new.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def read_text_if_any(path: Path) -> str | None:
    """Return the text of a file; None where there is none, also where another process removes it just now. Raises OSError and ValueError."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file as ``write_file`` does."""
    write_file(path, lambda file: file.write_bytes(content), private)


def write_json(path: Path, content: object, private: bool = False) -> None:
    """Write a record (see ``records``) or plain values as ``write_file`` does. Raises ValueError for a number that is not finite."""
    text = json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), private)


def append_durably(path: Path, text: str, private: bool = False) -> None:
    """Append to a file, on disk when this returns. ``private``: only the owner may read a file that is created here."""
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600 if private else 0o666)
    with os.fdopen(handle, "a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path, private: bool = False) -> None:
    """Make a folder and its parents where they do not exist; ``private``: only the owner can read those made here."""
    if not path.is_dir():
        make_folder(path.parent, private)
        path.mkdir(0o700 if private else 0o777, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync the folder, so that the files made or renamed in it are there after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process holds the folder's lock, and hold it. The lock of a process that died is free."""
    with lock_file(folder / ".lock"):
        yield


def folder_is_locked(folder: Path) -> bool:
    """Return whether another process, or another thread, holds the folder's lock."""
    with lock_folder_if_free(folder) as held:
        return not held


@contextmanager
def lock_folder_if_free(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock where no other process does, and yield whether it is held."""
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except BlockingIOError:
        held = False
    try:
        yield held
    finally:
        os.close(handle)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold the lock of one file, which is created for it, as ``lock_folder`` does."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
