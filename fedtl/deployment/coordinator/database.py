"""Flower's database at the coordinator, ``state.db``: whether it can be read, before the SuperLink ends with a message that does not name it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from fedtl.errors import ConfigError

DATABASE = "state.db"


def check_database(folder: Path) -> None:
    """Raise ConfigError for a damaged database. One that is not there is made, and one that is locked is waited for by the SuperLink."""
    path = folder / DATABASE
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=0.0)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise ConfigError(
                f"{path} cannot be read: {error}; remove it and the files whose names begin with its name: the sites are registered anew, and every study "
                "continues after its last round"
            ) from error
