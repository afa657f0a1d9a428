"""The rules of a ledger, one by one and compared with a model; processes killed at every step; tampering; reading."""

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedtl.errors import (
    BudgetExhausted,
    ConfigError,
    FedTLError,
    LedgerDamaged,
    Refused,
    RoundLost,
    SiloFailed,
)
from fedtl.messages import SpendEvent
from fedtl.privacy import hash_chain as books
from fedtl.privacy.accounting import epsilon
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_lines import BudgetChanged, RowsChanged, parse_line
from fedtl.privacy.ledger_reading import (
    check_study_fits,
    read_ledger,
    read_ledgers,
    read_state,
    verify_ledger,
)
from fedtl.privacy.rows import Hashes, RowSet
from fedtl.privacy.verify import find_faults, study_costs, unconfirmed_rows
from tests.commands import ForkedPython

ROUND = (SpendEvent(4.0, 1.0, 1),)  # full batches: each round adds 1 / 16 to mu^2
PLAN = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 8),))
BUDGET = Budget(9.0, 1e-5)
COST = [epsilon(ROUND * rounds, 1e-6) for rounds in range(9)]
TAKEN = (PLAN.epsilon, PLAN.delta)  # by a study from its first round on, however few follow


def rows(fingerprint, count=10):
    """Return a row set for each fingerprint, which shares no row with any other."""
    values = np.arange(count, dtype=np.uint64) + np.uint64(1000 * int(fingerprint, 16))
    return RowSet(fingerprint, "key", count, Hashes.of(values, np.ones(count)))


def account(path, dataset="scans", fingerprint="aa", budget=BUDGET):
    return LedgerAccount(path, dataset, rows(fingerprint), budget)


def opened(*given, **more):
    return Ledger(account(*given, **more))


def admitted(*given, **more):
    return Ledger.admit(account(*given, **more))


def lines(ledger):
    return read_ledger(ledger._account.path, ledger._account.dataset)


def state(ledger):
    return read_state(ledger._account.path, ledger._account.dataset)


def verify(ledger):
    return verify_ledger(ledger._account.path)


def fits(ledger, plan, study=None):
    check_study_fits(ledger._account, plan, study)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    return opened(path)


def run(ledger, study, round, reply=b"reply"):
    charge = ledger.charge(study, round, f"task {round}", ROUND, PLAN)
    assert charge.reply is None
    ledger.store(study, round, reply)
    return charge


def so_far(ledger, study):
    """The epsilon of the charged rounds, which is not a guarantee."""
    return study_costs(lines(ledger))[study].charged


def whats(ledger):
    return [line.entry.what for line in lines(ledger)]


def test_round_is_charged_and_its_reply_stored(path, ledger):
    assert state(ledger).taken == (0, 0)
    assert "a" not in state(ledger).studies
    charge = run(ledger, "a", 1)
    assert (charge.epsilon, charge.delta) == TAKEN
    assert state(opened(path)).taken == TAKEN
    assert state(ledger).charged_studies == {"a"}
    assert tuple(state(ledger).studies["a"].events) == ROUND
    assert whats(ledger) == ["opened", "planned", "charged", "stored"]
    assert lines(ledger)[2].as_json() | {"at": ""} == {
        "at": "", "chain": "scans", "number": 3, "what": "charged",
        "study": "a", "round": 1, "task": "task 1", "events": [[4.0, 1.0, 1]], "epsilon": COST[1],
    }  # fmt: skip


def test_same_task_again_returns_the_same_bytes_and_costs_nothing(path, ledger):
    run(ledger, "a", 1, b"\0 the bytes")
    again = opened(path).charge("a", 1, "task 1", ROUND, PLAN)
    assert (again.reply, again.epsilon) == (b"\0 the bytes", PLAN.epsilon)
    assert state(ledger).taken == TAKEN
    assert so_far(ledger, "a") == COST[1]


def test_empty_reply_is_a_reply(ledger):
    run(ledger, "a", 1, b"")
    assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == b""


def test_reply_larger_than_one_blob(monkeypatch, ledger):
    monkeypatch.setattr(books, "BLOB_BYTES", 4)
    run(ledger, "a", 1, bytes(range(23)))
    assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == bytes(range(23))


def test_only_the_last_reply_of_a_study_is_stored(path, ledger):
    for round in range(1, 5):
        run(ledger, "a", round, os.urandom(100_000))
    run(ledger, "b", 1)
    assert ledger.charge("b", 1, "task 1", ROUND, PLAN).reply == b"reply"
    assert path.stat().st_size < 300_000


def test_charged_round_without_a_reply_is_lost(path, ledger):
    ledger.charge("a", 1, "task 1", ROUND, PLAN)
    with pytest.raises(RoundLost, match="round 1.*reply"):
        opened(path).charge("a", 1, "task 1", ROUND, PLAN)
    assert issubclass(RoundLost, SiloFailed)
    assert so_far(ledger, "a") == COST[1]
    run(ledger, "a", 2)
    assert so_far(ledger, "a") == COST[2]


def test_another_task_for_a_round_and_older_rounds_are_refused(ledger):
    run(ledger, "a", 1)
    run(ledger, "a", 3)  # a round that the silo was not asked for costs nothing
    for round, task, words in [
        (3, "other", "round 3.*another task"),
        (2, "task 2", "round 2.*is 3"),
        (1, "task 1", "round 1.*is 3"),
    ]:
        with pytest.raises(Refused, match=words):
            ledger.charge("a", round, task, ROUND, PLAN)
    assert so_far(ledger, "a") == COST[2]


def test_reply_is_stored_only_for_the_last_charged_round(ledger):
    for study, round in [("a", 1), ("b", 2)]:
        with pytest.raises(FedTLError, match="last charged round"):
            ledger.store(study, round, b"")
    run(ledger, "a", 1)
    with pytest.raises(FedTLError, match="round 1.*reply"):
        ledger.store("a", 1, b"other")
    assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == b"reply"


def test_study_keeps_its_plan(ledger):
    run(ledger, "a", 1)
    for other in (
        Plan(3.9, PLAN.delta, PLAN.events),
        Plan(PLAN.epsilon, 2e-6, PLAN.events),
        Plan(PLAN.epsilon, PLAN.delta, (SpendEvent(4.0, 1.0, 7),)),
    ):
        with pytest.raises(Refused, match="another plan"):
            ledger.charge("a", 2, "task 2", ROUND, other)
    same = Plan(4, 1e-6, (SpendEvent(4, 1, 3), SpendEvent(4.0, 1.0, 5)))
    assert ledger.charge("a", 2, "task 2", ROUND, same).reply is None
    assert so_far(ledger, "a") == COST[2]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ((SpendEvent(4.0, 1.0, 8),), "9 steps.*has 8"),
        ((SpendEvent(3.0, 1.0, 1),), "noise 3.*has 0"),
        ((SpendEvent(4.0, 0.5, 1),), "rate 0.5;.*has 0"),
    ],
)
def test_more_steps_than_planned_are_refused(ledger, events, words):
    run(ledger, "a", 1)
    with pytest.raises(Refused, match=words):
        ledger.charge("a", 2, "task 2", events, PLAN)
    assert so_far(ledger, "a") == COST[1]


def test_invalid_plans_rounds_and_budgets_are_refused(ledger):
    with pytest.raises(ConfigError, match=r"epsilon 2, but"):
        ledger.charge("a", 1, "task", ROUND, Plan(2.0, 1e-6, (SpendEvent(4.0, 1.0, 5),)))
    for study, round, events in [
        ("", 1, ROUND),
        ("a", 0, ROUND),
        ("a", 1, ()),
        ("a", 1, [SpendEvent(0.0, 1.0, 1)]),
    ]:
        with pytest.raises(ConfigError):
            ledger.charge(study, round, "task", events, PLAN)
    for budget in [
        (0.0, 1e-5),
        (-1.0, 1e-5),
        (float("inf"), 1e-5),
        (float("nan"), 1e-5),
        (1.0, 0.0),
        (1.0, 1.0),
    ]:
        with pytest.raises(ConfigError, match="valid budget"):
            Budget(*budget)
    assert whats(ledger) == ["opened"]


def test_whole_plans_add_up_to_the_budget(path):
    ledger = opened(path, budget=Budget(10.0, 1e-5))
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    run(ledger, "b", 1)
    assert state(ledger).taken == pytest.approx((8.0, 2e-6))
    with pytest.raises(BudgetExhausted) as refused:
        ledger.charge("c", 1, "task 1", ROUND, PLAN)
    numbers = [4.0, 8.0, 10.0, 2.0]  # asked, taken, budget, left
    assert all(f"{number:.4g}" in str(refused.value) for number in numbers), refused.value
    assert refused.value.exit_code == 3
    assert whats(ledger)[-1] == "stored"
    assert "c" not in state(ledger).studies
    assert run(opened(path, budget=Budget(12.0, 1e-5)), "c", 1).reply is None


def test_study_that_ends_early_returns_nothing(path):
    """Its end may depend on its results: what seven of twenty rounds did not use is not available to another study."""
    rounds = 20
    plan = Plan(3.0, 1e-5, (SpendEvent(9.0, 1.0, rounds),))
    ledger = opened(path, budget=Budget(3.0, 2e-5))
    for number in range(1, 8):
        ledger.charge("a", number, "task", (SpendEvent(9.0, 1.0, 1),), plan)
        ledger.store("a", number, b"")
    assert state(ledger).taken == (3.0, 1e-5)
    left = 3.0 - epsilon((SpendEvent(9.0, 1.0, 7),), 1e-5)
    assert left > 1
    event = SpendEvent(12.0, 1.0, 1)
    other = Plan(left, 1e-5, (event,))
    for act in (lambda: ledger.charge("b", 1, "task", (event,), other), lambda: fits(ledger, other)):
        with pytest.raises(BudgetExhausted, match=r"taken 3 of 3 "):
            act()
    assert ledger.charge("a", 8, "task", (SpendEvent(9.0, 1.0, 1),), plan).reply is None  # and goes on itself


def test_study_that_does_not_fit_is_not_begun(path):
    ledger = opened(path, budget=Budget(COST[7], 1e-5))
    with pytest.raises(BudgetExhausted, match="study 'a'"):
        ledger.charge("a", 1, "task", ROUND, PLAN)  # one round, and seven, would fit
    assert whats(ledger) == ["opened"]


def test_whole_plans_count_in_ledgers_of_an_earlier_version(path, ledger):
    """
    An earlier fedtl wrote plans too, and let studies begin that did not fit. Their cost is never less than it was
    then.
    """
    run(ledger, "a", 1)
    with ledger._file.write("scans") as chain:  # as it did when the first study had used little of its plan
        for study, number in (("b", 1), ("c", 1)):
            chain.append("planned", study=study, epsilon=4.0, delta=1e-6, events=[[4.0, 1.0, 8]])
            chain.append(
                "charged", study=study, round=number, task="t", events=[[4.0, 1.0, 1]], epsilon=COST[1]
            )
        chain.append("planned", study="d", epsilon=0.5, delta=1e-6, events=[[4.0, 1.0, 8]])
        chain.append("charged", study="d", round=1, task="t", events=[[4.0, 1.0, 1]], epsilon=COST[1])
    again = opened(path)
    assert COST[1] > 0.5  # beyond its plan: it counts for what it was
    assert state(again).taken == pytest.approx((12.0 + COST[1], 4e-6))
    assert state(again).taken[0] >= 3 * COST[1]
    assert any("epsilon 12 and delta 3e-06" in text for text in find_faults(lines(again)))
    with pytest.raises(BudgetExhausted, match="9.061 of 9 "):
        again.charge("b", 2, "task", ROUND, PLAN)


def test_deltas_add_up_too(path):
    ledger, plan = opened(path, budget=Budget(100.0, 3e-5)), Plan(4.0, 1e-5, PLAN.events)
    for study in (
        "a",
        "b",
        "c",
    ):  # three times 1e-5 are a little more than 3e-5 in binary, and no more to a person
        ledger.charge(study, 1, "task", ROUND, plan)
    with pytest.raises(BudgetExhausted, match="3e-05 of 3e-05"):
        ledger.charge("one more", 1, "task", ROUND, plan)


def test_budget_can_be_used_completely(path):
    ledger = opened(path, budget=Budget(COST[8], 1e-6))
    plan = Plan(COST[8], PLAN.delta, PLAN.events)
    for round in range(1, 9):
        ledger.charge("a", round, "task", ROUND, plan)
    assert state(ledger).taken == (COST[8], 1e-6)
    assert so_far(ledger, "a") == COST[8]


def test_changed_budget_is_written_and_the_last_one_applies(path, ledger):
    run(ledger, "a", 1)
    opened(path, budget=BUDGET)
    assert whats(ledger).count("budget") == 0
    opened(path, budget=Budget(COST[1], 1e-5))
    assert lines(ledger)[-1].entry == BudgetChanged(epsilon=COST[1], delta=1e-5)
    with pytest.raises(BudgetExhausted):  # though it was opened with more
        ledger.charge("a", 2, "task 2", ROUND, PLAN)


def test_changed_rows_are_refused_until_confirmed_and_costs_remain(path, ledger):
    run(ledger, "a", 1)
    changed = opened(path, fingerprint="bb")
    said = r"aa is now bb: 10 rows .* 10 "
    for round in (1, 2):
        with pytest.raises(Refused, match=said):
            changed.charge("a", round, f"task {round}", ROUND, PLAN)
    with pytest.raises(ConfigError, match="bb, not cc"):
        changed.confirm("cc")
    changed.confirm("bb")
    changed.confirm("bb")
    assert whats(changed)[-2:] == ["changed", "confirmed"]
    assert lines(changed)[-2].entry.difference == "10 rows are new and 10 are gone"
    assert state(changed).taken == TAKEN
    run(changed, "a", 2)
    assert so_far(changed, "a") == COST[2]
    with pytest.raises(Refused, match="rows have changed"):  # opened before, on the old ones
        ledger.charge("a", 3, "task 3", ROUND, PLAN)


def test_changed_rows_are_written_once_before_they_are_refused(path, ledger):
    """Also by a process that ends right after the refusal, and again after a confirmation."""
    run(ledger, "a", 1)

    def meet(fingerprint):
        with pytest.raises(Refused, match="rows have changed"):
            opened(path, fingerprint=fingerprint).charge("a", 2, "task 2", ROUND, PLAN)
        entries = [line.entry for line in lines(ledger)]
        return [(line.before, line.fingerprint) for line in entries if isinstance(line, RowsChanged)]

    assert meet("bb") == meet("bb") == [("aa", "bb")]
    assert meet("cc") == meet("bb") == [("aa", "bb"), ("aa", "cc")]
    assert lines(ledger)[-1].at
    run(ledger, "a", 2)  # the rows of before are still those that were confirmed
    opened(path, fingerprint="dd").confirm("dd")  # not met before: written all the same
    assert whats(ledger)[-2:] == ["changed", "confirmed"]
    assert meet("bb")[-2:] == [("aa", "dd"), ("dd", "bb")]
    assert unconfirmed_rows(lines(ledger)) == "bb"
    opened(path, fingerprint="bb").confirm("bb")
    assert unconfirmed_rows(lines(ledger)) == ""
    assert find_faults(lines(ledger)) == []
    verify(ledger)


def test_second_dataset_must_be_admitted(path, ledger):
    run(ledger, "a", 1)
    with pytest.raises(Refused, match="'scans', .* --new-dataset") as refused:
        opened(path, "reports", "cc")
    assert refused.value.exit_code == 3
    assert ledger._file.names() == ["scans"]
    reports = admitted(path, "reports", "cc")
    assert lines(reports)[0].entry.beside == {"scans": 0}
    assert state(opened(path, "reports", "cc")).taken == (0, 0)
    with pytest.raises(ConfigError, match="^reports: .* already"):
        admitted(path, "reports", "cc")
    with pytest.raises(ConfigError, match="^scans: .* first"):
        admitted(path.with_name("other.sqlite"), "scans", "aa")


def test_same_rows_get_no_second_budget_by_another_name(path, ledger):
    """Nor rows that a dataset had earlier: what was spent on them stays spent, whatever replaced them."""
    run(ledger, "a", 1)
    for act in (opened, admitted):
        with pytest.raises(Refused, match=r"^reports: .*100.0%"):
            act(path, "reports", "aa")
    opened(path, fingerprint="bb").confirm("bb")
    for fingerprint in ("aa", "bb"):
        with pytest.raises(Refused, match="^reports: .* 'scans'"):
            admitted(path, "reports", fingerprint)
    other = admitted(path, "reports", "cc")
    with pytest.raises(Refused, match="^scans: .* 'reports'"):
        opened(path, "scans", "cc").confirm("cc")
    assert whats(other) == ["opened"]
    verify(ledger)


def test_rows_that_cannot_be_compared_are_refused(path, ledger):
    other_key = RowSet("cc", "another key", 10, rows("cc").stored)
    with pytest.raises(Refused, match="'scans' .* `secret`"):
        Ledger.admit(LedgerAccount(path, "reports", other_key, BUDGET))
    with pytest.raises(Refused, match="file `secret`"):
        Ledger(LedgerAccount(path, "scans", other_key, BUDGET)).charge("a", 1, "task", ROUND, PLAN)
    old = path.with_name("old.sqlite")
    file = books.HashChainFile(old)
    file.create()
    with file.write("scans") as chain:  # as an earlier fedtl opened it
        chain.append("opened", fingerprint="aa", epsilon=9.0, delta=1e-5)
    with pytest.raises(Refused, match="earlier fedtl, so"):
        admitted(old, "reports", "cc")
    with pytest.raises(Refused, match="order of rows"):
        opened(old, fingerprint="bb").charge("a", 1, "task", ROUND, PLAN)
    opened(old, fingerprint="bb").confirm("bb")
    assert lines(admitted(old, "reports", "cc"))[0].entry.beside == {"scans": 0}


def test_altered_row_hashes_are_detected(path, ledger):
    run(ledger, "a", 1)
    sql(path, "UPDATE kept SET bytes = 'other' WHERE name = '/ever'")
    with pytest.raises(LedgerDamaged, match="'/ever' were altered"):
        verify(ledger)
    with pytest.raises(LedgerDamaged, match="'/ever' were altered"):
        admitted(path, "reports", "cc")


def test_study_that_does_not_fit_is_found_before_it_is_charged(path):
    ledger = opened(path, budget=Budget(4.0 + COST[7], 1e-5))
    run(ledger, "a", 1)
    before = lines(ledger)
    other = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 7),))
    with pytest.raises(BudgetExhausted, match="a new study"):
        fits(ledger, other)
    fits(ledger, PLAN)  # it may be the study that is under way
    fits(ledger, PLAN, "a")
    with pytest.raises(BudgetExhausted, match="study 'renamed'"):
        fits(ledger, PLAN, "renamed")
    assert lines(ledger) == before
    for number in range(2, 9):
        run(ledger, "a", number)
    with pytest.raises(BudgetExhausted):  # it is over, so this is another one
        fits(ledger, PLAN)


def test_two_datasets_share_a_file_and_no_budget(path, ledger):
    other = admitted(path, "reports", "cc", Budget(4.2, 1e-6))
    run(ledger, "a", 1, b"of the scans")
    run(other, "a", 1, b"of the reports")
    run(ledger, "b", 1)
    assert state(ledger).taken == pytest.approx((8.0, 2e-6))
    assert state(other).taken == TAKEN
    assert other.charge("a", 1, "task 1", ROUND, PLAN).reply == b"of the reports"
    assert verify(ledger).keys() == {"scans", "reports"}


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


def sql(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount, "the statement changed nothing"
    connection.commit()
    connection.close()


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


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"scans": 3}'])
def test_deleted_or_damaged_tip_is_detected(path, ledger, content):
    tip = path.with_name("ledger.sqlite.tip")
    tip.unlink() if content is None else tip.write_text(content)
    with pytest.raises(LedgerDamaged, match=r"ledger\.sqlite\.tip "):
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
    monkeypatch.setattr(books, "LOCK_SECONDS", 0.1)
    with ledger._file.write("scans"), pytest.raises(SiloFailed, match="database is locked"):
        ledger.charge("a", 1, "task", ROUND, PLAN)
    assert whats(ledger) == ["opened"]


def test_threads_charge_one_after_another(path):
    def work(number):
        try:
            return opened(path).charge("a", 1, "task", ROUND, PLAN).reply is None
        except RoundLost:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(16))) == 1
    assert state(opened(path)).taken == TAKEN
    assert threading.active_count() < 8


Step = st.tuples(
    st.sampled_from(["charge", "store", "crash", "confirm"]),
    st.sampled_from(["a", "b"]),
    st.integers(1, 3),
    st.sampled_from(["x", "y"]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(Step, max_size=14))
def test_any_sequence_equals_a_simple_model(tmp_path_factory, steps):
    """The model: for each study the number of its rounds, its last round, that round's task, and the reply."""
    path = tmp_path_factory.mktemp("model") / "ledger.sqlite"
    budget = Budget(PLAN.epsilon * 1.5, 1e-5)
    ledger, model = opened(path, budget=budget), {}
    for what, study, round, task in steps:
        count, last, hash_, reply = model.get(study, (0, 0, "", None))
        if what == "crash":  # whatever was not yet stored is lost with the process: the book alone knows
            ledger = opened(path, budget=budget)
        elif what == "confirm":
            ledger.confirm("aa")
        elif what == "store":
            if count and round == last and reply is None:
                ledger.store(study, round, f"{study}{round}".encode())
                model[study] = count, last, hash_, f"{study}{round}".encode()
            else:
                with pytest.raises(FedTLError):
                    ledger.store(study, round, b"")
        else:
            expected = (
                Refused if round < last or (round == last and task != hash_)
                else RoundLost if round == last and reply is None
                else reply if round == last
                else BudgetExhausted if model.keys() - {study}
                else None
            )  # fmt: skip
            if isinstance(expected, type):
                with pytest.raises(expected):
                    ledger.charge(study, round, task, ROUND, PLAN)
            else:
                assert ledger.charge(study, round, task, ROUND, PLAN).reply == expected
                if expected is None:
                    model[study] = count + 1, round, task, None
        assert state(ledger).taken[0] == PLAN.epsilon * len(model)
        assert {name: its.charged for name, its in study_costs(lines(ledger)).items()} == {
            name: pytest.approx(COST[its[0]]) for name, its in model.items()
        }
    verify(ledger)


CHILD = """
import os, signal, sys, time
from pathlib import Path
from fedtl.errors import FedTLError
from fedtl.messages import SpendEvent
from fedtl.privacy import hash_chain as book
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_reading import read_ledger
from fedtl.privacy.rows import RowSet

ROUND = (SpendEvent(4.0, 1.0, 1),)
PLAN = Plan({plan!r}, 1e-6, (SpendEvent(4.0, 1.0, {steps}),))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def opened(budget={budget!r}):
    return Ledger(LedgerAccount(Path({path!r}), "scans", RowSet.loaded({rows!r}), Budget(budget, 1e-5)))

def charge(ledger, study, round):
    return ledger.charge(study, round, f"task {{round}}", ROUND, PLAN)
"""


def child(path, code, budget=9.0, plan=4.0, steps=8):
    known = rows("aa").dumped()
    source = CHILD.format(path=str(path), budget=budget, steps=steps, plan=plan, rows=known) + code
    return ForkedPython(source)


def killed(path, code):
    process = child(path, code)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


NEITHER, CHARGED, STORED = 0, 1, 2
# Where the process dies in its first round, and what stands in the book afterwards.
DEATHS = {
    "new file": ("book.sync_folder = lambda _: die()\nopened()", NEITHER),
    "no lines": ("book.WritableChain.append = lambda *_, **__: die()\nopened()", NEITHER),
    "opened, not sealed": (
        "seal = book.HashChainFile._seal\nbook.HashChainFile._seal = lambda self, chain: die() if chain.entries else seal(self, chain)\nopened()",
        NEITHER,
    ),
    "before charge": ("opened()\ndie()", NEITHER),
    "charge not committed": (
        "ledger, append = opened(), book.WritableChain.append\n"
        "book.WritableChain.append = lambda self, what, **c: (append(self, what, **c), what == 'charged' and die())\n"
        "charge(ledger, 'a', 1)",
        NEITHER,
    ),
    "charge not sealed": (
        "ledger = opened()\nbook.HashChainFile._seal = lambda *_: die()\ncharge(ledger, 'a', 1)",
        CHARGED,
    ),
    "tip half written": (
        "ledger = opened()\nbook.os.replace = lambda *_: die()\ncharge(ledger, 'a', 1)",
        CHARGED,
    ),
    "after charge": ("charge(opened(), 'a', 1)\ndie()", CHARGED),
    "store not committed": (
        "ledger = opened()\ncharge(ledger, 'a', 1)\nkeep = book.WritableChain.store\n"
        "book.WritableChain.store = lambda *a: (keep(*a), die())\nledger.store('a', 1, b'reply')",
        CHARGED,
    ),
    "store not sealed": (
        "ledger = opened()\ncharge(ledger, 'a', 1)\nbook.HashChainFile._seal = lambda *_: die()\n"
        "ledger.store('a', 1, b'reply')",
        STORED,
    ),
    "after store": (
        "ledger = opened()\ncharge(ledger, 'a', 1)\nledger.store('a', 1, b'reply')\ndie()",
        STORED,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", DEATHS)
def test_process_killed_at_any_step(path, where):
    code, left = DEATHS[where]
    killed(path, code)
    ledger = opened(path)
    verify(ledger)
    assert state(ledger).taken == (TAKEN if left else (0, 0))
    if left == CHARGED:
        with pytest.raises(RoundLost):
            ledger.charge("a", 1, "task 1", ROUND, PLAN)
    else:
        assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == (b"reply" if left == STORED else None)
    run(ledger, "a", 2)
    assert so_far(ledger, "a") == COST[2]
    verify(ledger)


@pytest.mark.slow
def test_every_answer_of_a_killed_process_is_in_the_ledger(path):
    """What a process printed as charged or stored, before it was killed from outside, is in the ledger."""
    code = (
        "ledger = opened(9.0)\nknown = max([getattr(line.entry, 'round', 0) for line in read_ledger(ledger._account.path, 'scans')])\n"
        "for round in range(known + 1, 999):\n"
        "    charge(ledger, 'a', round); print('charged', round, flush=True)\n"
        "    ledger.store('a', round, b'%d' % round); print('stored', round, flush=True)\n"
    )
    said = []
    for moment in range(6):
        process = child(path, code, plan=9.0, steps=32)
        for _ in range(1 + moment):
            said.append(process.stdout.readline().split())
        os.kill(process.pid, signal.SIGKILL)
        said += [line.split() for line in process.stdout.read().splitlines()]
        process.stdout.close()
        process.wait()
        ledger = opened(path, budget=Budget(9.0, 1e-5))
        verify(ledger)
        written = [
            (line.entry.what, line.entry.round) for line in lines(ledger) if hasattr(line.entry, "round")
        ]
        assert {(what, int(round)) for what, round in said} <= set(written)
        assert len(written) == len(set(written))


@pytest.mark.slow
def test_concurrent_processes_never_exceed_the_budget(path):
    """Four processes, a study each, of which two fit into the budget; the ledger agrees with what they were told."""
    budget = PLAN.epsilon * 2.5
    code = (
        "ledger, got = opened(), 0\n"
        "try:\n"
        "    while True:\n"
        "        charge(ledger, sys.argv[0] + str(os.getpid()), got + 1); got += 1\n"
        "except FedTLError as error:\n"
        "    print(got, type(error).__name__)\n"
    )
    processes = [child(path, code, budget=budget) for _ in range(4)]
    answers = [tuple(process.communicate(timeout=200).split()) for process in processes]
    assert (
        sorted(answers) == [("0", "BudgetExhausted")] * 2 + [("8", "Refused")] * 2
    )  # Refused: its plan is done
    ledger = opened(path, budget=Budget(budget, 1e-5))
    assert whats(ledger).count("charged") == 16
    assert state(ledger).taken[0] == 2 * PLAN.epsilon
    verify(ledger)


# Reading


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


# Lines


LINES = [
    {"what": "opened", "epsilon": 9.0, "delta": 1e-5, "fingerprint": "aa"},
    {"what": "opened", "epsilon": 9.0, "delta": 1e-5, "fingerprint": "aa", "rows": 3, "kept": {"/rows": "f"}, "beside": {"b": 1}},
    {"what": "budget", "epsilon": 9.0, "delta": 1e-5},
    {"what": "changed", "before": "aa", "fingerprint": "bb"},
    {"what": "changed", "before": "aa", "fingerprint": "bb", "difference": "3 rows are new"},
    {"what": "confirmed", "fingerprint": "bb"},
    {"what": "confirmed", "fingerprint": "bb", "rows": 3, "kept": {"/rows": "f"}},
    {"what": "planned", "study": "a", "epsilon": 4.0, "delta": 1e-6, "events": [[4.0, 0.25, 8]]},
    {"what": "charged", "study": "a", "round": 1, "task": "t", "events": [[4.0, 0.25, 1]], "epsilon": 1.5},
    {"what": "stored", "study": "a", "round": 1, "reply": "f", "bytes": 5},
]  # fmt: skip
HEADER = {"chain": "scans", "number": 3, "at": "2026-11-26T01:00:00+00:00"}


@pytest.mark.parametrize("content", LINES, ids=lambda content: content["what"])
def test_line_is_read_and_written_back_unchanged(content):
    """Also lines that an earlier fedtl wrote with fewer fields."""
    line = parse_line(HEADER | content)
    assert line.as_json() == HEADER | content
    assert json.dumps(line.as_json(), sort_keys=True) == json.dumps(HEADER | content, sort_keys=True)
    with pytest.raises(ValidationError, match="frozen"):
        line.entry.what = "opened"


@pytest.mark.parametrize("content", LINES, ids=lambda content: content["what"])
def test_line_of_another_kind_or_with_other_fields_is_refused(content):
    some, *_ = content.keys() - {"what", "kept", "beside", "rows", "difference"}
    for wrong in (
        content | {"more": 1},
        content | {"what": "settled"},
        {key: value for key, value in content.items() if key != some},
        content | {some: {}},
    ):
        with pytest.raises(LedgerDamaged, match="line 3 of 'scans'"):
            parse_line(HEADER | wrong)


def test_the_bytes_of_a_ledger_are_those_of_earlier_versions(path, monkeypatch):
    """The last hashes were computed with commit ace3607, before lines had types: same lines, same stored row sets."""

    class Fixed(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2026, 11, 26, tzinfo=UTC)

    monkeypatch.setattr(books, "datetime", Fixed)
    monkeypatch.setattr("fedtl.privacy.accounting.epsilon", lambda *_: 1.5)  # whatever the library rounds to
    run(opened(path), "a", 1)
    opened(path, budget=Budget(12.0, 1e-5))
    changed = opened(path, fingerprint="bb", budget=Budget(12.0, 1e-5))
    changed.confirm("bb")
    changed.charge("a", 2, "task 2", ROUND, PLAN)
    admitted(path, "reports", "cc", Budget(4.2, 1e-6))
    assert verify_ledger(path) == {
        "scans": (8, "2cd25f14fb64ff0f6f36a27b3dcff8c1586dd9b4257b2e9cb92bcb7e473e69a4"),
        "reports": (1, "fd8e6299f696d35a382f9d67de96fa9791ec789de1d189fc7e207d76a6ff2856"),
    }


@pytest.mark.parametrize("line", [{}, {"what": "budget"}, HEADER, HEADER | {"number": "x"} | LINES[2]])
def test_content_that_is_not_a_line_is_refused(line):
    with pytest.raises(LedgerDamaged):
        parse_line(line)


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("planned", {"events": [[4.0, 0.25, -8]]}),
        ("planned", {"events": [[0.0, 0.25, 1]]}),
        ("planned", {"events": [[4.0, 1.5, 1]]}),
        ("planned", {"epsilon": -1.0}),
        ("charged", {"events": [[4.0, 0.25, -1]]}),
        ("charged", {"round": 0}),
    ],
)
def test_a_line_that_would_give_budget_back_is_refused(what, wrong):
    content = next(line for line in LINES if line["what"] == what)
    with pytest.raises(LedgerDamaged):
        parse_line(HEADER | content | wrong)


def test_values_that_are_not_finite_numbers_are_refused():
    for number in (math.nan, math.inf, "x", None):
        with pytest.raises(LedgerDamaged, match="epsilon"):
            parse_line(HEADER | LINES[2] | {"epsilon": number})
