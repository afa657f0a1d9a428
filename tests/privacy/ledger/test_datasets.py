"""Which rows a budget is for: changed rows, a second dataset, the same rows by another name."""

import pytest

from fedtl.errors import (
    ConfigError,
    LedgerDamaged,
    Refused,
)
from fedtl.privacy import hash_chain as books
from fedtl.privacy.budget import Budget
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_lines import RowsChanged
from fedtl.privacy.rows import RowSet
from fedtl.privacy.verify import find_faults, unconfirmed_rows
from tests.privacy.ledger.ledgers import (
    BUDGET,
    COST,
    PLAN,
    ROUND,
    TAKEN,
    admitted,
    lines,
    opened,
    rows,
    run,
    so_far,
    sql,
    state,
    verify,
    whats,
)


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


def test_two_datasets_share_a_file_and_no_budget(path, ledger):
    other = admitted(path, "reports", "cc", Budget(4.2, 1e-6))
    run(ledger, "a", 1, b"of the scans")
    run(other, "a", 1, b"of the reports")
    run(ledger, "b", 1)
    assert state(ledger).taken == pytest.approx((8.0, 2e-6))
    assert state(other).taken == TAKEN
    assert other.charge("a", 1, "task 1", ROUND, PLAN).reply == b"of the reports"
    assert verify(ledger).keys() == {"scans", "reports"}
