"""Reading a ledger changes nothing, also while another process writes."""

import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedtl.errors import (
    BudgetExhausted,
)
from fedtl.privacy.budget import Plan
from fedtl.privacy.ledger_reading import (
    check_study_fits,
    read_ledger,
    read_ledgers,
    read_state,
    verify_ledger,
)
from tests.privacy.ledger.ledgers import PLAN, TAKEN, account, fits, opened, run, state, verify


def snapshot(folder):
    return {
        file.name: (file.read_bytes(), file.stat().st_mode, file.stat().st_mtime_ns)
        for file in folder.iterdir()
    }


def everything_read(path):
    return read_ledger(path, "scans"), read_ledgers(path), read_state(path, "scans"), verify_ledger(path)


def test_reading_changes_nothing_and_creates_nothing(path, ledger):
    run(ledger, "a", 1)
    before = snapshot(path.parent)
    everything_read(path)
    fits(ledger, PLAN, "a")
    with pytest.raises(BudgetExhausted):
        fits(ledger, Plan(8.0, 1e-6, PLAN.events))
    assert snapshot(path.parent) == before
    nowhere = path.parent / "none" / "ledger.sqlite"
    assert everything_read(nowhere) == ([], {}, None, {})
    check_study_fits(account(nowhere), PLAN)
    assert not nowhere.parent.exists()


READER = """
import os, sys
from pathlib import Path
from fedtl.privacy.ledger_reading import read_state, verify_ledger
path = Path(sys.argv[1])
if os.getuid() == 0:  # root writes everywhere
    os.setgid(65534)
    os.setuid(65534)
try:
    (path.parent / "file").touch()
except OSError:
    print(read_state(path, "scans").taken, verify_ledger(path)["scans"][0])
"""


def test_reader_without_write_permission():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "ledger.sqlite"
        run(opened(path), "a", 1)
        for file in path.parent.iterdir():
            file.chmod(0o444)
        path.parent.chmod(0o555)
        done = subprocess.run([sys.executable, "-c", READER, path], capture_output=True, text=True)
        path.parent.chmod(0o755)
    assert done.stdout.split(") ") == [str(TAKEN)[:-1], "4\n"], done.stderr


def test_reader_rolls_back_what_a_killed_writer_left(path, ledger):
    run(ledger, "a", 1)
    code = (
        "import sqlite3\n"
        "connection = sqlite3.connect({path!r}, isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size = 1')\n"  # so that it writes to the file before it commits
        "connection.execute('BEGIN IMMEDIATE')\n"
        "for _ in range(200):\n"
        "    connection.execute('INSERT INTO kept VALUES (hex(randomblob(9)), 1, 1, randomblob(9999))')\n"
        "import os; os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code.format(path=str(path))])
    assert done.returncode == -signal.SIGKILL
    assert path.with_name("ledger.sqlite-journal").stat().st_size
    assert state(ledger).taken == TAKEN
    assert verify(ledger)["scans"][0] == 4


def test_concurrent_readers_and_writers(path, ledger):
    """A reader's tip matches the lines that it read, while another thread charges."""

    def read(_):
        return len(read_ledger(path, "scans"))

    with ThreadPoolExecutor(4) as threads:
        counts = threads.map(read, range(60))
        for round in range(1, 9):
            run(ledger, "a", round)
        assert set(counts) <= set(range(1, 19))
    assert read(0) == 18
