"""Whole plans add up to the budget, and no further."""

import pytest

from fedtl.errors import (
    BudgetExhausted,
)
from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import epsilon
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.ledger_lines import BudgetChanged
from fedtl.privacy.verify import find_faults
from tests.privacy.ledger.ledgers import (
    BUDGET,
    COST,
    PLAN,
    ROUND,
    fits,
    lines,
    opened,
    run,
    so_far,
    state,
    whats,
)


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
