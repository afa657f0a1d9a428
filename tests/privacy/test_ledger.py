"""The rules, one by one and against a model; processes that die at every step; a book that somebody put right."""

import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from fedtl.privacy.ledger import Ledger
from fedtl.privacy.rows import Hashes, RowSet
from fedtl.privacy.verify import faults, studies, waiting

ROUND = (SpendEvent(4.0, 1.0, 1),)  # full batches: each round adds 1 / 16 to mu^2
PLAN = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 8),))
BUDGET = Budget(9.0, 1e-5)
COST = [epsilon(ROUND * rounds, 1e-6) for rounds in range(9)]
TAKEN = (PLAN.epsilon, PLAN.delta)  # by a study from its first round on, however few follow


def rows(fingerprint, count=10):
    """A row set of its own for each fingerprint, which shares no row with any other."""
    values = np.arange(count, dtype=np.uint64) + np.uint64(1000 * int(fingerprint, 16))
    return RowSet(fingerprint, "key", count, Hashes.of(values, np.ones(count)))


def opened(path, dataset="scans", fingerprint="aa", budget=BUDGET):
    return Ledger(path, dataset, rows(fingerprint), budget)


def admitted(path, dataset, fingerprint, budget=BUDGET):
    return Ledger.admit(path, dataset, rows(fingerprint), budget)


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
    """What its charged rounds come to, which is no claim."""
    return studies(ledger.lines())[study].charged


def whats(ledger):
    return [line["what"] for line in ledger.lines()]


def test_a_round_is_charged_and_its_reply_kept(path, ledger):
    assert ledger.spent() == (0, 0)
    assert not ledger.knows("a")
    charge = run(ledger, "a", 1)
    assert (charge.epsilon, charge.delta) == TAKEN
    assert opened(path).spent() == TAKEN
    assert ledger.knows("a")
    assert ledger.events("a") == ROUND
    assert whats(ledger) == ["opened", "planned", "charged", "stored"]
    assert ledger.lines()[2] | {"at": ""} == {
        "at": "", "chain": "scans", "number": 3, "what": "charged",
        "study": "a", "round": 1, "task": "task 1", "events": [[4.0, 1.0, 1]], "epsilon": COST[1],
    }  # fmt: skip


def test_the_same_task_again_gives_the_same_bytes_and_costs_nothing(path, ledger):
    run(ledger, "a", 1, b"\0 the bytes")
    again = opened(path).charge("a", 1, "task 1", ROUND, PLAN)
    assert (again.reply, again.epsilon) == (b"\0 the bytes", PLAN.epsilon)
    assert ledger.spent() == TAKEN
    assert so_far(ledger, "a") == COST[1]


def test_an_empty_reply_is_a_reply(ledger):
    run(ledger, "a", 1, b"")
    assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == b""


def test_a_reply_larger_than_a_part(monkeypatch, ledger):
    monkeypatch.setattr(books, "PART", 4)
    run(ledger, "a", 1, bytes(range(23)))
    assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == bytes(range(23))


def test_only_the_last_reply_of_a_study_takes_room(path, ledger):
    for round in range(1, 5):
        run(ledger, "a", round, os.urandom(100_000))
    run(ledger, "b", 1)
    assert ledger.charge("b", 1, "task 1", ROUND, PLAN).reply == b"reply"
    assert path.stat().st_size < 300_000


def test_what_was_charged_and_not_kept_is_lost(path, ledger):
    ledger.charge("a", 1, "task 1", ROUND, PLAN)
    with pytest.raises(RoundLost, match="round 1 of study 'a' was charged and has no reply"):
        opened(path).charge("a", 1, "task 1", ROUND, PLAN)
    assert issubclass(RoundLost, SiloFailed)
    assert so_far(ledger, "a") == COST[1]
    run(ledger, "a", 2)
    assert so_far(ledger, "a") == COST[2]


def test_another_task_for_a_round_and_older_rounds_are_refused(ledger):
    run(ledger, "a", 1)
    run(ledger, "a", 3)  # a round that the silo was not asked for costs nothing
    for round, task, words in [
        (3, "other", "round 3 of study 'a' was charged for another task"),
        (2, "task 2", "round 2 of study 'a' is over; the last is 3"),
        (1, "task 1", "round 1 of study 'a' is over; the last is 3"),
    ]:
        with pytest.raises(Refused, match=words):
            ledger.charge("a", round, task, ROUND, PLAN)
    assert so_far(ledger, "a") == COST[2]


def test_replies_only_where_one_is_awaited(ledger):
    for study, round in [("a", 1), ("b", 2)]:
        with pytest.raises(FedTLError, match="waits for no reply"):
            ledger.store(study, round, b"")
    run(ledger, "a", 1)
    with pytest.raises(FedTLError, match="round 1 of study 'a' waits for no reply"):
        ledger.store("a", 1, b"other")
    assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == b"reply"


def test_a_study_keeps_its_plan(ledger):
    run(ledger, "a", 1)
    for other in (
        Plan(3.9, PLAN.delta, PLAN.events),
        Plan(PLAN.epsilon, 2e-6, PLAN.events),
        Plan(PLAN.epsilon, PLAN.delta, (SpendEvent(4.0, 1.0, 7),)),
    ):
        with pytest.raises(Refused, match="study 'a' is bound to its plan"):
            ledger.charge("a", 2, "task 2", ROUND, other)
    same = Plan(4, 1e-6, (SpendEvent(4, 1, 3), SpendEvent(4.0, 1.0, 5)))
    assert ledger.charge("a", 2, "task 2", ROUND, same).reply is None
    assert so_far(ledger, "a") == COST[2]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ((SpendEvent(4.0, 1.0, 8),), "to 9 steps of noise 4 and rate 1; its plan has 8"),
        ((SpendEvent(3.0, 1.0, 1),), "to 1 steps of noise 3 and rate 1; its plan has 0"),
        ((SpendEvent(4.0, 0.5, 1),), "to 1 steps of noise 4 and rate 0.5; its plan has 0"),
    ],
)
def test_a_study_does_no_more_than_it_planned(ledger, events, words):
    run(ledger, "a", 1)
    with pytest.raises(Refused, match=words):
        ledger.charge("a", 2, "task 2", events, PLAN)
    assert so_far(ledger, "a") == COST[1]


def test_what_is_no_plan_and_no_round(ledger):
    with pytest.raises(ConfigError, match=r"plans for epsilon 2, and its events come to 2\.\d+"):
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


def test_plans_add_up_whole_and_the_budget_ends_them(path):
    ledger = opened(path, budget=Budget(10.0, 1e-5))
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    run(ledger, "b", 1)
    assert ledger.spent() == pytest.approx((8.0, 2e-6))
    with pytest.raises(BudgetExhausted) as refused:
        ledger.charge("c", 1, "task 1", ROUND, PLAN)
    numbers = [4.0, 8.0, 10.0, 2.0]  # asked, taken, budget, left
    assert all(f"{number:.4g}" in str(refused.value) for number in numbers), refused.value
    assert refused.value.exit_code == 3
    assert whats(ledger)[-1] == "stored"
    assert not ledger.knows("c")
    assert run(opened(path, budget=Budget(12.0, 1e-5)), "c", 1).reply is None


def test_a_study_that_ends_early_gives_nothing_back(path):
    """Its end may depend on its results: seven of twenty rounds, and what they did not use is no second study's."""
    rounds = 20
    plan = Plan(3.0, 1e-5, (SpendEvent(9.0, 1.0, rounds),))
    ledger = opened(path, budget=Budget(3.0, 2e-5))
    for number in range(1, 8):
        ledger.charge("a", number, "task", (SpendEvent(9.0, 1.0, 1),), plan)
        ledger.store("a", number, b"")
    assert ledger.spent() == (3.0, 1e-5)
    left = 3.0 - epsilon((SpendEvent(9.0, 1.0, 7),), 1e-5)
    assert left > 1
    event = SpendEvent(12.0, 1.0, 1)
    other = Plan(left, 1e-5, (event,))
    for act in (lambda: ledger.charge("b", 1, "task", (event,), other), lambda: ledger.foresee(other)):
        with pytest.raises(BudgetExhausted, match=r"taken 3 of 3 "):
            act()
    assert ledger.charge("a", 8, "task", (SpendEvent(9.0, 1.0, 1),), plan).reply is None  # and goes on itself


def test_a_study_that_cannot_be_finished_is_not_begun(path):
    ledger = opened(path, budget=Budget(COST[7], 1e-5))
    with pytest.raises(BudgetExhausted, match="study 'a'"):
        ledger.charge("a", 1, "task", ROUND, PLAN)  # one round, and seven, would fit
    assert whats(ledger) == ["opened"]


def test_a_ledger_from_before_counts_its_plans_whole(path, ledger):
    """An earlier fedtl wrote plans down as well, and let studies begin that did not fit: never less than then."""
    run(ledger, "a", 1)
    with ledger.book.open("scans") as chain:  # as it did when the first study had used little of its plan
        for study, number in (("b", 1), ("c", 1)):
            chain.append("planned", study=study, epsilon=4.0, delta=1e-6, events=[[4.0, 1.0, 8]])
            chain.append(
                "charged", study=study, round=number, task="t", events=[[4.0, 1.0, 1]], epsilon=COST[1]
            )
        chain.append("planned", study="d", epsilon=0.5, delta=1e-6, events=[[4.0, 1.0, 8]])
        chain.append("charged", study="d", round=1, task="t", events=[[4.0, 1.0, 1]], epsilon=COST[1])
    again = opened(path)
    assert COST[1] > 0.5  # beyond its plan: it counts for what it was
    assert again.spent() == pytest.approx((12.0 + COST[1], 4e-6))
    assert again.spent()[0] >= 3 * COST[1]
    assert any("take epsilon 12 and delta 3e-06, which is beyond" in text for text in faults(again.lines()))
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
    with pytest.raises(BudgetExhausted, match="and 3e-05 of 3e-05, so"):
        ledger.charge("one more", 1, "task", ROUND, plan)


def test_a_budget_is_used_to_its_end(path):
    ledger = opened(path, budget=Budget(COST[8], 1e-6))
    plan = Plan(COST[8], PLAN.delta, PLAN.events)
    for round in range(1, 9):
        ledger.charge("a", round, "task", ROUND, plan)
    assert ledger.spent() == (COST[8], 1e-6)
    assert so_far(ledger, "a") == COST[8]


def test_changed_budgets_are_written_down_and_the_last_one_holds(path, ledger):
    run(ledger, "a", 1)
    opened(path, budget=BUDGET)
    assert whats(ledger).count("budget") == 0
    opened(path, budget=Budget(COST[1], 1e-5))
    assert ledger.lines()[-1]["what"] == "budget"
    assert ledger.lines()[-1]["epsilon"] == COST[1]
    with pytest.raises(BudgetExhausted):  # though it was opened with more
        ledger.charge("a", 2, "task 2", ROUND, PLAN)


def test_changed_rows_are_refused_until_confirmed_and_forget_nothing(path, ledger):
    run(ledger, "a", 1)
    changed = opened(path, fingerprint="bb")
    said = r"the rows have changed \(fingerprint aa is now bb: 10 rows are new and 10 are gone\); confirm"
    for round in (1, 2):
        with pytest.raises(Refused, match=said):
            changed.charge("a", round, f"task {round}", ROUND, PLAN)
    with pytest.raises(ConfigError, match="the rows are bb, not cc"):
        changed.confirm("cc")
    changed.confirm("bb")
    changed.confirm("bb")
    assert whats(changed)[-2:] == ["changed", "confirmed"]
    assert changed.lines()[-2]["difference"] == "10 rows are new and 10 are gone"
    assert changed.spent() == TAKEN
    run(changed, "a", 2)
    assert so_far(changed, "a") == COST[2]
    with pytest.raises(Refused, match="the rows have changed"):  # opened before, on the old ones
        ledger.charge("a", 3, "task 3", ROUND, PLAN)


def test_changed_rows_are_a_line_once_each_and_before_they_are_refused(path, ledger):
    """Also by a process that is gone the moment it was refused, and again after a confirmation."""
    run(ledger, "a", 1)

    def meet(fingerprint):
        with pytest.raises(Refused, match="the rows have changed"):
            opened(path, fingerprint=fingerprint).charge("a", 2, "task 2", ROUND, PLAN)
        return [(line["before"], line["fingerprint"]) for line in ledger.lines() if line["what"] == "changed"]

    assert meet("bb") == meet("bb") == [("aa", "bb")]
    assert meet("cc") == meet("bb") == [("aa", "bb"), ("aa", "cc")]
    assert ledger.lines()[-1]["at"]
    run(ledger, "a", 2)  # the rows of before are still those that were confirmed
    opened(path, fingerprint="dd").confirm("dd")  # not met before: written all the same
    assert [line["what"] for line in ledger.lines()][-2:] == ["changed", "confirmed"]
    assert meet("bb")[-2:] == [("aa", "dd"), ("dd", "bb")]
    assert waiting(ledger.lines()) == "bb"
    opened(path, fingerprint="bb").confirm("bb")
    assert waiting(ledger.lines()) == ""
    assert faults(ledger.lines()) == []
    ledger.verify()


def test_a_second_dataset_needs_its_owners_word(path, ledger):
    run(ledger, "a", 1)
    said = (
        r"reports: is not in this ledger, which has 'scans', .* fedtl silo confirm DIR BUNDLE --new-dataset"
    )
    with pytest.raises(Refused, match=said) as refused:
        opened(path, "reports", "cc")
    assert refused.value.exit_code == 3
    assert ledger.book.names() == ["scans"]
    reports = admitted(path, "reports", "cc")
    assert reports.lines()[0]["beside"] == {"scans": 0}
    assert opened(path, "reports", "cc").spent() == (0, 0)
    with pytest.raises(ConfigError, match="reports: is in this ledger already"):
        admitted(path, "reports", "cc")
    with pytest.raises(ConfigError, match="scans: is the first of this ledger"):
        admitted(path.with_name("other.sqlite"), "scans", "aa")


def test_the_same_rows_have_no_second_budget_by_a_second_name(path, ledger):
    """Nor have rows that they were once: what was spent on those stays spent, whatever replaced them."""
    run(ledger, "a", 1)
    for act in (opened, admitted):
        with pytest.raises(
            Refused, match=r"reports: its rows are 'scans' in this ledger \(100.0% of the rows"
        ):
            act(path, "reports", "aa")
    opened(path, fingerprint="bb").confirm("bb")
    for fingerprint in ("aa", "bb"):
        with pytest.raises(Refused, match="reports: its rows are 'scans'"):
            admitted(path, "reports", fingerprint)
    other = admitted(path, "reports", "cc")
    with pytest.raises(Refused, match=r"scans: its rows are 'reports' in this ledger"):
        opened(path, "scans", "cc").confirm("cc")
    assert whats(other) == ["opened"]
    ledger.verify()


def test_rows_that_cannot_be_compared_are_refused(path, ledger):
    other_key = RowSet("cc", "another key", 10, rows("cc").stored)
    with pytest.raises(Refused, match="'scans' in this ledger has rows hashed under another `secret`"):
        Ledger.admit(path, "reports", other_key, BUDGET)
    with pytest.raises(Refused, match="the file `secret` is another one, so no row can be recognised"):
        Ledger(path, "scans", other_key, BUDGET).charge("a", 1, "task", ROUND, PLAN)
    old = path.with_name("old.sqlite")
    with books.HashChainFile(old).open("scans") as chain:  # as an earlier fedtl opened it
        chain.append("opened", fingerprint="aa", epsilon=9.0, delta=1e-5)
    with pytest.raises(Refused, match="'scans' in this ledger was written by an earlier fedtl"):
        admitted(old, "reports", "cc")
    with pytest.raises(
        Refused, match="an earlier fedtl wrote the first, which depended on the order of rows"
    ):
        opened(old, fingerprint="bb").charge("a", 1, "task", ROUND, PLAN)
    opened(old, fingerprint="bb").confirm("bb")
    assert admitted(old, "reports", "cc").lines()[0]["beside"] == {"scans": 0}


def test_altered_hashes_of_rows_are_found(path, ledger):
    run(ledger, "a", 1)
    sql(path, "UPDATE kept SET bytes = 'other' WHERE name = '/ever'")
    with pytest.raises(LedgerDamaged, match="the bytes kept for '/ever' were altered"):
        ledger.verify()
    with pytest.raises(LedgerDamaged, match="the bytes kept for '/ever' were altered"):
        admitted(path, "reports", "cc")


def test_what_could_not_be_charged_whole_is_foreseen_and_costs_nothing(path):
    ledger = opened(path, budget=Budget(4.0 + COST[7], 1e-5))
    run(ledger, "a", 1)
    before = ledger.lines()
    other = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 7),))
    with pytest.raises(BudgetExhausted, match="a new study"):
        ledger.foresee(other)
    ledger.foresee(PLAN)  # it may be the study that is under way
    ledger.foresee(PLAN, "a")
    with pytest.raises(BudgetExhausted, match="study 'renamed'"):
        ledger.foresee(PLAN, "renamed")
    assert ledger.lines() == before
    for number in range(2, 9):
        run(ledger, "a", number)
    with pytest.raises(BudgetExhausted):  # it is over, so this is another one
        ledger.foresee(PLAN)


def test_two_datasets_share_a_book_and_no_budget(path, ledger):
    other = admitted(path, "reports", "cc", Budget(4.2, 1e-6))
    run(ledger, "a", 1, b"of the scans")
    run(other, "a", 1, b"of the reports")
    run(ledger, "b", 1)
    assert ledger.spent() == pytest.approx((8.0, 2e-6))
    assert other.spent() == TAKEN
    assert other.charge("a", 1, "task 1", ROUND, PLAN).reply == b"of the reports"
    assert ledger.verify().keys() == {"scans", "reports"}


def test_for_its_owner_alone(path, ledger):
    run(ledger, "a", 1)
    for file in (path, path.with_name("ledger.sqlite.tip")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.tip"]


def test_the_chain_is_sha256_of_what_is_written(path, ledger):
    """Recomputed from the file alone."""
    run(ledger, "a", 1)
    digest = "0" * 64
    with sqlite3.connect(path) as connection:
        for text, written in connection.execute("SELECT line, hash FROM lines ORDER BY number"):
            assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
            digest = books.sha256((digest + text).encode()).hexdigest()
            assert digest == written
    connection.close()
    assert ledger.verify() == {"scans": (4, digest)}
    assert json.loads(path.with_name("ledger.sqlite.tip").read_text()) == {"scans": [4, digest]}


def sql(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount, "the statement changed nothing"
    connection.commit()
    connection.close()


TAMPERING = {
    "altered": ("UPDATE lines SET line = replace(line, '\"round\":2', '\"round\":3') WHERE number = 5", "line 5 of scans was altered"),
    "hash altered": ("UPDATE lines SET hash = 'x' WHERE number = 5", "line 5 of scans was altered"),
    "middle gone": ("DELETE FROM lines WHERE number = 3", "line 3 of scans was altered, or one before it is gone"),
    "first gone": ("DELETE FROM lines WHERE number = 1", "line 1 of scans was altered, or one before it is gone"),
    "end gone": ("DELETE FROM lines WHERE number >= 5", "scans has 4 lines and had 6"),
    "all gone": ("DELETE FROM lines", "scans has 0 lines and had 6"),
    "moved": ("UPDATE lines SET chain = 'x' WHERE number = 6", "scans has 5 lines and had 6"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found_and_nothing_goes_on(path, ledger, how):
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    statement, words = TAMPERING[how]
    sql(path, statement)
    for act in (
        ledger.verify,
        ledger.spent,
        lambda: opened(path),
        lambda: ledger.charge("a", 3, "task 3", ROUND, PLAN),
    ):
        with pytest.raises(LedgerDamaged, match=words):
            act()


def test_an_altered_reply_is_found_and_not_sent(path, ledger):
    run(ledger, "a", 1)
    sql(path, "UPDATE kept SET bytes = 'other' WHERE name = 'a'")
    with pytest.raises(LedgerDamaged, match="the bytes kept for 'a' were altered"):
        ledger.verify()
    with pytest.raises(LedgerDamaged, match="the bytes kept for 'a' were altered"):
        ledger.charge("a", 1, "task 1", ROUND, PLAN)
    sql(path, "DELETE FROM kept")
    with pytest.raises(LedgerDamaged):
        ledger.verify()


def test_the_end_cut_off_and_rewritten_is_found(path, ledger):
    """Whoever cuts the last round and lets the ledger write another one: the tip knows what stood there."""
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    tip = path.with_name("ledger.sqlite.tip")
    kept = tip.read_text()
    sql(path, "DELETE FROM lines WHERE number >= 5")
    tip.write_text(json.dumps({"scans": [4, re.findall(r"[0-9a-f]{64}", kept)[0]]}))
    with pytest.raises(LedgerDamaged, match="line 4 of scans is another than it was"):
        ledger.verify()


def test_a_file_from_an_older_copy_is_found(path, ledger):
    run(ledger, "a", 1)
    shutil.copy(path, path.with_suffix(".copy"))
    run(ledger, "a", 2)
    shutil.copy(path.with_suffix(".copy"), path)
    with pytest.raises(LedgerDamaged, match="scans has 4 lines and had 6"):
        opened(path)


def test_a_lost_book_is_not_a_new_book(path, ledger):
    path.unlink()
    with pytest.raises(SiloFailed, match="the ledger cannot be written"):
        ledger.spent()
    with pytest.raises(LedgerDamaged, match="scans has 0 lines and had 1"):
        opened(path)


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"scans": 3}'])
def test_a_lost_or_damaged_tip_is_found(path, ledger, content):
    tip = path.with_name("ledger.sqlite.tip")
    tip.unlink() if content is None else tip.write_text(content)
    with pytest.raises(LedgerDamaged, match=r"ledger\.sqlite\.tip (does not know scans|cannot be read)"):
        opened(path)


def test_what_is_no_book(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database, and long enough to look like one" * 100)
    with pytest.raises(LedgerDamaged, match="not a database"):
        opened(path)


def test_where_no_book_can_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SiloFailed, match="the ledger cannot be made"):
        opened(tmp_path / "file" / "ledger.sqlite")


def test_a_book_that_somebody_holds(path, ledger, monkeypatch):
    monkeypatch.setattr(books, "PATIENCE", 0.1)
    with ledger.book.open("scans"), pytest.raises(SiloFailed, match="database is locked"):
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
    assert opened(path).spent() == TAKEN
    assert threading.active_count() < 8


Step = st.tuples(
    st.sampled_from(["charge", "store", "crash", "confirm"]),
    st.sampled_from(["a", "b"]),
    st.integers(1, 3),
    st.sampled_from(["x", "y"]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(Step, max_size=14))
def test_any_sequence_does_what_a_simple_model_does(tmp_path_factory, steps):
    """The model: for each study its rounds' number, its last round, that round's task, and the reply."""
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
        assert ledger.spent()[0] == PLAN.epsilon * len(model)
        assert {name: its.charged for name, its in studies(ledger.lines()).items()} == {
            name: pytest.approx(COST[its[0]]) for name, its in model.items()
        }
    ledger.verify()


CHILD = """
import os, signal, sys, time
from pathlib import Path
from fedtl.errors import FedTLError
from fedtl.messages import SpendEvent
from fedtl.privacy import hash_chain as book
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.ledger import Ledger
from fedtl.privacy.rows import RowSet

ROUND = (SpendEvent(4.0, 1.0, 1),)
PLAN = Plan({plan!r}, 1e-6, (SpendEvent(4.0, 1.0, {steps}),))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def opened(budget={budget!r}):
    return Ledger(Path({path!r}), "scans", RowSet.loaded({rows!r}), Budget(budget, 1e-5))

def charge(ledger, study, round):
    return ledger.charge(study, round, f"task {{round}}", ROUND, PLAN)
"""


def child(path, code, budget=9.0, plan=4.0, steps=8):
    known = rows("aa").dumped()
    source = CHILD.format(path=str(path), budget=budget, steps=steps, plan=plan, rows=known) + code
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def killed(path, code):
    process = child(path, code)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL


NEITHER, CHARGED, STORED = 0, 1, 2
# Where the process dies in its first round, and what stands in the book afterwards.
DEATHS = {
    "new file": ("book.sync = lambda _: die()\nopened()", NEITHER),
    "no lines": ("book.Chain.append = lambda *_, **__: die()\nopened()", NEITHER),
    "opened, not sealed": (
        "seal = book.Book._seal\nbook.Book._seal = lambda self, chain: die() if chain.entries else seal(self, chain)\nopened()",
        NEITHER,
    ),
    "before charge": ("opened()\ndie()", NEITHER),
    "charge not committed": (
        "ledger, append = opened(), book.Chain.append\n"
        "book.Chain.append = lambda self, what, **c: (append(self, what, **c), what == 'charged' and die())\n"
        "charge(ledger, 'a', 1)",
        NEITHER,
    ),
    "charge not sealed": (
        "ledger = opened()\nbook.Book._seal = lambda *_: die()\ncharge(ledger, 'a', 1)",
        CHARGED,
    ),
    "tip half written": (
        "ledger = opened()\nbook.os.replace = lambda *_: die()\ncharge(ledger, 'a', 1)",
        CHARGED,
    ),
    "after charge": ("charge(opened(), 'a', 1)\ndie()", CHARGED),
    "store not committed": (
        "ledger = opened()\ncharge(ledger, 'a', 1)\nkeep = book.Chain.keep\n"
        "book.Chain.keep = lambda *a: (keep(*a), die())\nledger.store('a', 1, b'reply')",
        CHARGED,
    ),
    "store not sealed": (
        "ledger = opened()\ncharge(ledger, 'a', 1)\nbook.Book._seal = lambda *_: die()\n"
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
def test_a_process_killed_at_any_step(path, where):
    code, left = DEATHS[where]
    killed(path, code)
    ledger = opened(path)
    ledger.verify()
    assert ledger.spent() == (TAKEN if left else (0, 0))
    if left == CHARGED:
        with pytest.raises(RoundLost):
            ledger.charge("a", 1, "task 1", ROUND, PLAN)
    else:
        assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == (b"reply" if left == STORED else None)
    run(ledger, "a", 2)
    assert so_far(ledger, "a") == COST[2]
    ledger.verify()


@pytest.mark.slow
def test_killed_at_any_moment_every_answer_given_is_in_the_book(path):
    """What a process said that it had charged or stored, before it was killed from outside, is there."""
    code = (
        "ledger = opened(9.0)\nknown = max([line.get('round', 0) for line in ledger.lines()], default=0)\n"
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
        ledger.verify()
        written = [(line["what"], line["round"]) for line in ledger.lines() if "round" in line]
        assert {(what, int(round)) for what, round in said} <= set(written)
        assert len(written) == len(set(written))


@pytest.mark.slow
def test_processes_that_charge_at_once_never_exceed_the_budget(path):
    """Four processes, a study each, of which the budget has room for two; what they got is what the book says."""
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
    answers = [tuple(process.communicate(timeout=200)[0].split()) for process in processes]
    assert (
        sorted(answers) == [("0", "BudgetExhausted")] * 2 + [("8", "Refused")] * 2
    )  # Refused: its plan is done
    ledger = opened(path, budget=Budget(budget, 1e-5))
    assert whats(ledger).count("charged") == 16
    assert ledger.spent()[0] == 2 * PLAN.epsilon
    ledger.verify()
