"""A round is charged once, before its reply is stored, within its study's plan."""

import os

import pytest

from fedtl.errors import (
    ConfigError,
    FedTLError,
    Refused,
    RoundLost,
    SiloFailed,
)
from fedtl.messages import SpendEvent
from fedtl.privacy import hash_chain as books
from fedtl.privacy.budget import Budget, Plan
from tests.privacy.ledger.ledgers import COST, PLAN, ROUND, TAKEN, lines, opened, run, so_far, state, whats


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
