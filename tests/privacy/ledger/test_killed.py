"""Processes killed at every step, and processes and threads that charge at the same time."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedtl.errors import (
    RoundLost,
)
from fedtl.privacy.budget import Budget
from tests.commands import ForkedPython
from tests.privacy.ledger.ledgers import (
    COST,
    PLAN,
    ROUND,
    TAKEN,
    lines,
    opened,
    rows,
    run,
    so_far,
    state,
    verify,
    whats,
)


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


CHILD = """
import os, signal, sys, time
from pathlib import Path
from fedtl.errors import FedTLError
from fedtl.messages import SpendEvent
from fedtl.privacy import chain_database
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
    "new file": ("chain_database.sync_folder = lambda _: die()\nopened()", NEITHER),
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
        "ledger = opened()\nos.replace = lambda *_: die()\ncharge(ledger, 'a', 1)",
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
def test_a_process_goes_on_from_what_others_wrote_and_not_from_what_it_remembers(path):
    ledger = opened(path)
    run(ledger, "a", 1)
    killed(path, "charge(opened(), 'a', 2)\ndie()")
    with pytest.raises(RoundLost):
        ledger.charge("a", 2, "task 2", ROUND, PLAN)
    run(ledger, "a", 3)
    code = "ledger = opened()\ncharge(ledger, 'a', 4)\nledger.store('a', 4, b'theirs')\nprint('stored')"
    assert "stored" in child(path, code).communicate()
    assert ledger.charge("a", 4, "task 4", ROUND, PLAN).reply == b"theirs"
    run(ledger, "a", 5)
    assert state(ledger).studies["a"].round == 5
    assert so_far(ledger, "a") == COST[5]
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
