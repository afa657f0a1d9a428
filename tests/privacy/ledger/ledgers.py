"""A ledger of one dataset, the plan of a study, and what to ask of them."""

import sqlite3

import numpy as np

from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import epsilon
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_reading import (
    check_study_fits,
    read_ledger,
    read_state,
    verify_ledger,
)
from fedtl.privacy.rows import Hashes, RowSet
from fedtl.privacy.verify import study_costs

ROUND = (SpendEvent(4.0, 1.0, 1),)  # full batches: each round adds 1 / 16 to mu^2
PLAN = Plan(4.0, 1e-6, (SpendEvent(4.0, 1.0, 8),))
BUDGET = Budget(9.0, 1e-5)
COST = [epsilon(ROUND * rounds, 1e-6, plan=PLAN.events) for rounds in range(9)]
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


def sql(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount, "the statement changed nothing"
    connection.commit()
    connection.close()
