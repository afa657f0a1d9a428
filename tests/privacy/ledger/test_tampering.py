"""Lines, replies and files that were changed, deleted or replaced are detected."""

import json
import re
import shutil
import sqlite3
import stat

import pytest

from fedtl.errors import (
    LedgerDamaged,
    SiloFailed,
)
from fedtl.privacy import chain_database
from fedtl.privacy import hash_chain as books
from tests.privacy.ledger.ledgers import PLAN, ROUND, opened, run, sql, state, verify, whats


def test_files_are_readable_only_by_their_owner(path, ledger):
    run(ledger, "a", 1)
    for file in (path, path.with_name("ledger.sqlite.tip")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.tip"]


def test_chain_is_sha256_of_the_lines(path, ledger):
    """Recomputed from the file alone."""
    run(ledger, "a", 1)
    digest = "0" * 64
    with sqlite3.connect(path) as connection:
        for text, written in connection.execute("SELECT line, hash FROM lines ORDER BY number"):
            assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
            digest = books.sha256((digest + text).encode()).hexdigest()
            assert digest == written
    connection.close()
    assert verify(ledger) == {"scans": (4, digest)}
    assert json.loads(path.with_name("ledger.sqlite.tip").read_text()) == {"scans": [4, digest]}


TAMPERING = {
    "altered": ("UPDATE lines SET line = replace(line, '\"round\":2', '\"round\":3') WHERE number = 5", "line 5 of scans"),
    "hash altered": ("UPDATE lines SET hash = 'x' WHERE number = 5", "line 5 of scans"),
    "middle gone": ("DELETE FROM lines WHERE number = 3", "line 3 of scans"),
    "first gone": ("DELETE FROM lines WHERE number = 1", "line 1 of scans"),
    "end gone": ("DELETE FROM lines WHERE number >= 5", "4 lines.*6"),
    "all gone": ("DELETE FROM lines", "0 lines.*6"),
    "moved": ("UPDATE lines SET chain = 'x' WHERE number = 6", "5 lines.*6"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_detected_and_stops_everything(path, ledger, how):
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    statement, words = TAMPERING[how]
    sql(path, statement)
    for act in (
        lambda: verify(ledger),
        lambda: state(ledger),
        lambda: opened(path),
        lambda: ledger.charge("a", 3, "task 3", ROUND, PLAN),
    ):
        with pytest.raises(LedgerDamaged, match=words):
            act()


@pytest.mark.parametrize("text", ['{"chain":"scans","number":9}', "[]", "no line", '{"number":2}'])
def test_line_that_is_none_is_detected_even_with_its_right_hash(path, ledger, text):
    run(ledger, "a", 1)
    digest = verify(ledger)["scans"][1]
    forged = books.sha256((digest + text).encode()).hexdigest()
    sql(path, f"INSERT INTO lines (chain, line, hash) VALUES ('scans', '{text}', '{forged}')")
    with pytest.raises(LedgerDamaged, match="line 5 of scans"):
        verify(ledger)
    sql(path, "UPDATE lines SET chain = NULL WHERE number = 5")
    with pytest.raises(LedgerDamaged, match="no chain"):
        verify(ledger)


def test_altered_reply_is_detected_and_not_sent(path, ledger):
    run(ledger, "a", 1)
    sql(path, "UPDATE kept SET bytes = 'other' WHERE name = 'a'")
    with pytest.raises(LedgerDamaged, match="'a' were altered"):
        verify(ledger)
    with pytest.raises(LedgerDamaged, match="'a' were altered"):
        ledger.charge("a", 1, "task 1", ROUND, PLAN)
    sql(path, "DELETE FROM kept")
    with pytest.raises(LedgerDamaged):
        verify(ledger)


def test_replaced_last_round_is_detected(path, ledger):
    """Somebody removes the last round and lets the ledger write another: the tip has the hash of the old line."""
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    tip = path.with_name("ledger.sqlite.tip")
    kept = tip.read_text()
    sql(path, "DELETE FROM lines WHERE number >= 5")
    tip.write_text(json.dumps({"scans": [4, re.findall(r"[0-9a-f]{64}", kept)[0]]}))
    with pytest.raises(LedgerDamaged, match="line 4 of scans"):
        verify(ledger)


def test_older_copy_of_the_file_is_detected(path, ledger):
    run(ledger, "a", 1)
    shutil.copy(path, path.with_suffix(".copy"))
    run(ledger, "a", 2)
    shutil.copy(path.with_suffix(".copy"), path)
    with pytest.raises(LedgerDamaged, match="4 lines.*6"):
        opened(path)


def test_deleted_file_is_not_a_new_ledger(path, ledger):
    path.unlink()
    with pytest.raises(SiloFailed, match="cannot be written"):
        run(ledger, "a", 1)
    with pytest.raises(LedgerDamaged, match="had 1"):
        state(ledger)
    with pytest.raises(LedgerDamaged, match="0 lines.*1"):
        opened(path)


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"scans": 3}', '{"scans": [-1, ""]}'])
def test_deleted_or_damaged_tip_is_detected(path, ledger, content):
    tip = path.with_name("ledger.sqlite.tip")
    tip.unlink() if content is None else tip.write_text(content)
    with pytest.raises(LedgerDamaged, match=r"ledger\.sqlite\.tip |had -1"):
        opened(path)


def test_file_that_is_not_a_database(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database, and long enough to look like one" * 100)
    with pytest.raises(LedgerDamaged, match="not a database"):
        opened(path)


def test_path_where_no_file_can_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SiloFailed, match="cannot be created"):
        opened(tmp_path / "file" / "ledger.sqlite")


def test_file_that_is_locked_for_too_long(path, ledger, monkeypatch):
    monkeypatch.setattr(chain_database, "LOCK_SECONDS", 0.1)
    with ledger._file.write("scans"), pytest.raises(SiloFailed, match="database is locked"):
        ledger.charge("a", 1, "task", ROUND, PLAN)
    assert whats(ledger) == ["opened"]
