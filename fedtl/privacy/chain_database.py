"""
The SQLite file of hash chains: how it is created, locked and read. When a transaction has ended, all that it wrote is on the
disk. This module must not depend on what is in the tables.

Reading writes nothing, so that it works on a read-only file system; except that where a process was killed while it
wrote, SQLite must roll its unfinished transaction back before anything can be read.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedtl._util.files import sync_folder
from fedtl.errors import LedgerDamaged, SiloFailed

LOCK_SECONDS = 60.0  # the longest wait for another process that writes
TABLES = (
    "CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY, chain TEXT, line TEXT, hash TEXT)",
    "CREATE INDEX IF NOT EXISTS of_chain ON lines (chain, number)",
    "CREATE TABLE IF NOT EXISTS kept (chain TEXT, name TEXT, part INTEGER, bytes BLOB, PRIMARY KEY (chain, name, part))",
)
_creating = threading.Lock()


def damaged(path: Path, what: str) -> LedgerDamaged:
    """Return the error for a file that was altered."""
    return LedgerDamaged(f"{path}: {what}; restore it and its .tip from one copy")


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that no other process is in: afterwards all of it is on the disk, or nothing."""
    with _failures(path, "written"), closing(_connect(path, "rw")) as connection:
        # FULL does not sync the folder once the journal is gone, and after a power cut it could be back: EXTRA.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            for table in TABLES:
                connection.execute(table)
        yield connection
        connection.execute("COMMIT")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """
    A transaction that only reads: no other process commits until it ends. An empty database if there is no file, or if a
    writer has created it and not yet committed.
    """
    with _failures(path, "read"), closing(_connect_to_read(path)) as connection:
        yield connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    try:
        if path.stat().st_size:
            return _begin_reading(path)
    except FileNotFoundError:
        pass
    connection = sqlite3.connect(":memory:")
    for table in TABLES:
        connection.execute(table)
    return connection


def _begin_reading(path: Path) -> sqlite3.Connection:
    try:
        return _begun(path)
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_READONLY_ROLLBACK":
            raise
    with closing(
        _connect(path, "rw")
    ) as writer:  # a process was killed while it wrote: SQLite rolls that back
        writer.execute("SELECT 1 FROM sqlite_master").fetchone()
    return _begun(path)


def _begun(path: Path) -> sqlite3.Connection:
    connection = _connect(path, "ro")
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # takes the lock
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, LOCK_SECONDS, isolation_level=None, uri=True)


@contextmanager
def _failures(path: Path, how: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:  # locked for too long, a full disk, no permission
        raise SiloFailed(f"{path} cannot be {how} ({error}); fix the cause and try again") from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error)) from error


def create_file(path: Path) -> None:
    """Create an empty file that only its owner can read, before SQLite opens it; its journal inherits the mode."""
    with _creating:  # one thread at a time: closing a file releases the locks that other threads hold on it
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
                sync_folder(path.parent)
        except OSError as error:
            raise SiloFailed(
                f"{path} cannot be created ({error.strerror}); fix the cause and try again"
            ) from error
