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
from fedtl.privacy import book as books
from fedtl.privacy.accounting import epsilon
from fedtl.privacy.ledger import Budget, Ledger, Plan
from fedtl.privacy.papers import faults, waiting

ROUND = (SpendEvent(4.0, 1.0, 1),)  # full batches: each round adds 1 / 16 to mu^2
PLAN = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 8),))
BUDGET = Budget(9.0, 1e-5)
COST = [epsilon(ROUND * rounds, 1e-6) for rounds in range(9)]


def opened(path, dataset="scans", fingerprint="aa", budget=BUDGET):
    return Ledger(path, dataset, fingerprint, budget)


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


def whats(ledger):
    return [line["what"] for line in ledger.lines()]


def test_a_round_is_charged_and_its_reply_kept(path, ledger):
    assert ledger.spent() == (0, 0)
    assert not ledger.knows("a")
    charge = run(ledger, "a", 1)
    assert (charge.epsilon, charge.delta) == (COST[1], 1e-6)
    assert opened(path).spent() == (COST[1], 1e-6)
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
    assert (again.reply, again.epsilon) == (b"\0 the bytes", COST[1])
    assert ledger.spent() == (COST[1], 1e-6)


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
    assert ledger.spent() == (COST[1], 1e-6)
    assert run(ledger, "a", 2).epsilon == COST[2]


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
    assert ledger.spent() == (COST[2], 1e-6)


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
    assert ledger.charge("a", 2, "task 2", ROUND, same).epsilon == COST[2]


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
    assert ledger.spent() == (COST[1], 1e-6)


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
        with pytest.raises(ConfigError, match="is no budget"):
            Budget(*budget)
    assert whats(ledger) == ["opened"]


def test_studies_add_up_and_the_budget_ends_them(path):
    ledger = opened(path, budget=Budget(COST[2] + COST[1] * 1.5, 1e-5))
    run(ledger, "a", 1)
    run(ledger, "a", 2)
    run(ledger, "b", 1)
    assert ledger.spent() == pytest.approx((COST[2] + COST[1], 2e-6))
    with pytest.raises(BudgetExhausted) as refused:
        ledger.charge("c", 1, "task 1", ROUND, PLAN)
    numbers = [COST[1], COST[2] + COST[1], COST[2] + COST[1] * 1.5, COST[1] / 2]  # asked, spent, budget, left
    assert all(f"{number:.4g}" in str(refused.value) for number in numbers), refused.value
    assert refused.value.exit_code == 3
    assert whats(ledger)[-1] == "stored"
    assert not ledger.knows("c")
    assert run(opened(path, budget=Budget(9.0, 1e-5)), "c", 1).reply is None


def test_deltas_add_up_too(path):
    ledger, plan = opened(path, budget=Budget(100.0, 3e-5)), Plan(4.0, 1e-5, PLAN.events)
    for study in (
        "a",
        "b",
        "c",
    ):  # three times 1e-5 are a little more than 3e-5 in binary, and no more to a person
        ledger.charge(study, 1, "task", ROUND, plan)
    with pytest.raises(BudgetExhausted, match="and 3e-05 of 3e-05 are spent"):
        ledger.charge("one more", 1, "task", ROUND, plan)


def test_a_budget_is_used_to_its_end(path):
    ledger = opened(path, budget=Budget(COST[8], 1e-6))
    plan = Plan(COST[8], PLAN.delta, PLAN.events)
    for round in range(1, 9):
        ledger.charge("a", round, "task", ROUND, plan)
    assert ledger.spent() == (COST[8], 1e-6)


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
    for round in (1, 2):
        with pytest.raises(Refused, match=r"the rows have changed \(fingerprint aa is now bb\); confirm"):
            changed.charge("a", round, f"task {round}", ROUND, PLAN)
    with pytest.raises(ConfigError, match="the rows are bb, not cc"):
        changed.confirm("cc")
    changed.confirm("bb")
    changed.confirm("bb")
    assert whats(changed)[-2:] == ["changed", "confirmed"]
    assert changed.spent() == (COST[1], 1e-6)
    assert run(changed, "a", 2).epsilon == COST[2]
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
    assert run(ledger, "a", 2).epsilon == COST[2]  # the rows of before are still those that were confirmed
    opened(path, fingerprint="dd").confirm("dd")  # not met before: written all the same
    assert [line["what"] for line in ledger.lines()][-2:] == ["changed", "confirmed"]
    assert meet("bb")[-2:] == [("aa", "dd"), ("dd", "bb")]
    assert waiting(ledger.lines()) == "bb"
    opened(path, fingerprint="bb").confirm("bb")
    assert waiting(ledger.lines()) == ""
    assert faults(ledger.lines()) == []
    ledger.verify()


def test_the_same_rows_have_no_second_budget_by_a_second_name(path, ledger):
    run(ledger, "a", 1)
    with pytest.raises(Refused, match=r"reports: its rows \(fingerprint aa\) are 'scans' in this ledger"):
        opened(path, "reports")
    with pytest.raises(Refused, match="the rows have changed"):
        opened(path, fingerprint="bb").charge("a", 2, "task 2", ROUND, PLAN)
    with pytest.raises(Refused, match="'scans'"):  # they were met, though nobody confirmed them
        opened(path, "reports", "bb")
    assert ledger.verify().keys() == {"scans", "reports"}
    assert ledger.book.names() == ["scans"]
    other = opened(path, "reports", "cc")
    with pytest.raises(Refused, match=r"scans: its rows \(fingerprint cc\) are 'reports'"):
        opened(path, "scans", "cc").confirm("cc")
    assert whats(other) == ["opened"]


def test_what_a_study_could_not_even_begin_is_foreseen_and_costs_nothing(path):
    ledger = opened(path, budget=Budget(COST[8] + COST[1] / 2, 1e-5))
    for round in range(1, 9):
        run(ledger, "a", round)
    before = ledger.lines()
    other = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 7),))
    with pytest.raises(BudgetExhausted, match="round 1 of a new study asks for epsilon"):
        ledger.foresee(ROUND, other)
    ledger.foresee(ROUND, PLAN)  # it may be the study that is under way
    assert ledger.lines() == before


def test_two_datasets_share_a_book_and_no_budget(path, ledger):
    other = opened(path, "reports", "cc", Budget(1.2, 1e-6))
    run(ledger, "a", 1, b"of the scans")
    run(other, "a", 1, b"of the reports")
    run(ledger, "b", 1)
    assert ledger.spent() == pytest.approx((2 * COST[1], 2e-6))
    assert other.spent() == (COST[1], 1e-6)
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
    sql(path, "UPDATE kept SET bytes = 'other'")
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
    assert opened(path).spent() == (COST[1], 1e-6)
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
    budget = Budget(COST[2] + COST[1], 1e-5)
    ledger, studies = opened(path, budget=budget), {}
    for what, study, round, task in steps:
        count, last, hash_, reply = studies.get(study, (0, 0, "", None))
        if what == "crash":  # whatever was not yet stored is lost with the process: the book alone knows
            ledger = opened(path, budget=budget)
        elif what == "confirm":
            ledger.confirm("aa")
        elif what == "store":
            if count and round == last and reply is None:
                ledger.store(study, round, f"{study}{round}".encode())
                studies[study] = count, last, hash_, f"{study}{round}".encode()
            else:
                with pytest.raises(FedTLError):
                    ledger.store(study, round, b"")
        else:
            others = sum(COST[each[0]] for name, each in studies.items() if name != study)
            expected = (
                Refused if round < last or (round == last and task != hash_)
                else RoundLost if round == last and reply is None
                else reply if round == last
                else BudgetExhausted if others + COST[count + 1] > budget.epsilon * (1 + 1e-9)
                else None
            )  # fmt: skip
            if isinstance(expected, type):
                with pytest.raises(expected):
                    ledger.charge(study, round, task, ROUND, PLAN)
            else:
                assert ledger.charge(study, round, task, ROUND, PLAN).reply == expected
                if expected is None:
                    studies[study] = count + 1, round, task, None
        assert ledger.spent()[0] == pytest.approx(sum(COST[each[0]] for each in studies.values()))
    ledger.verify()


CHILD = """
import os, signal, sys, time
from pathlib import Path
from fedtl.errors import FedTLError
from fedtl.messages import SpendEvent
from fedtl.privacy import book
from fedtl.privacy.ledger import Budget, Ledger, Plan

ROUND = (SpendEvent(4.0, 1.0, 1),)
PLAN = Plan({plan!r}, 1e-6, (SpendEvent(4.0, 1.0, {steps}),))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def opened(budget={budget!r}):
    return Ledger(Path({path!r}), "scans", "aa", Budget(budget, 1e-5))

def charge(ledger, study, round):
    return ledger.charge(study, round, f"task {{round}}", ROUND, PLAN)
"""


def child(path, code, budget=9.0, plan=4.0, steps=8):
    source = CHILD.format(path=str(path), budget=budget, steps=steps, plan=plan) + code
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
    assert ledger.spent()[0] == (COST[1] if left else 0)
    if left == CHARGED:
        with pytest.raises(RoundLost):
            ledger.charge("a", 1, "task 1", ROUND, PLAN)
    else:
        assert ledger.charge("a", 1, "task 1", ROUND, PLAN).reply == (b"reply" if left == STORED else None)
    run(ledger, "a", 2)
    assert ledger.spent()[0] == COST[2]
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
        process = child(path, code, plan=10.0, steps=40)
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
    """Four processes, a study each, until none gets any more; what they got is what the book says."""
    budget = COST[8] * 1.7
    code = (
        "ledger, got = opened(), 0\n"
        "try:\n"
        "    while True:\n"
        "        charge(ledger, sys.argv[0] + str(os.getpid()), got + 1); got += 1\n"
        "except FedTLError as error:\n"
        "    print(got, type(error).__name__)\n"
    )
    processes = [child(path, code, budget=budget) for _ in range(4)]
    answers = [process.communicate(timeout=200)[0].split() for process in processes]
    assert {name for _, name in answers} <= {"BudgetExhausted", "Refused"}  # Refused: its plan was done first
    assert "BudgetExhausted" in {name for _, name in answers}
    got = [int(count) for count, _ in answers]
    ledger = opened(path, budget=Budget(budget, 1e-5))
    assert whats(ledger).count("charged") == sum(got)
    assert ledger.spent()[0] == pytest.approx(sum(COST[count] for count in got))
    assert ledger.spent()[0] <= budget
    ledger.verify()
