"""
Two decisions that only a steward can make: that rows which changed are correct, and that a new dataset holds other people's
rows. Until then no private round uses these rows. Budget that was spent on a dataset stays spent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedtl.deployment.coordinator.bundle import read_agreement
from fedtl.deployment.site.egress_lines import ChangeConfirmed, DatasetAdmitted
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.site_rows import raw_row_hashes, read_raw_rows
from fedtl.errors import ConfigError
from fedtl.privacy.budget import Budget
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_lines import Opened, RowsChanged, RowsConfirmed
from fedtl.privacy.ledger_reading import read_ledger, read_ledgers
from fedtl.privacy.rows import RowSet
from fedtl.privacy.verify import study_costs


@dataclass(frozen=True)
class ConfirmedRows:
    """``before`` and ``now``: fingerprints of the rows. ``difference``: in words, how many are new and gone."""

    rows: int
    before: str
    now: str
    difference: str
    epsilon_spent: float


@dataclass(frozen=True)
class AdmittedDataset:
    """``beside``: for each other dataset of the ledger, how many of the rows are in it as well."""

    dataset: str
    rows: int
    beside: Mapping[str, int]
    lifetime_epsilon: float


def confirm_changed_rows(home: Home, bundle: Path) -> ConfirmedRows:
    """
    Accept the rows as they are now, as the plan in ``bundle`` reads them. Raises ConfigError where nothing was charged to
    them yet or nothing changed, and Refused where they are the rows of another dataset.
    """
    if home.dataset not in (ledgers := read_ledgers(home.ledger)):
        names = ", ".join(map(repr, ledgers))
        raise ConfigError(
            f"dataset {home.dataset!r} is not in this ledger, which has {names}; if these are other people's rows, add --new-dataset"
            if ledgers
            else f"{home.path}: nothing was charged to these rows yet, so there is nothing to confirm"
        )
    rows, budget = _rows_and_budget(home, bundle)
    account = LedgerAccount(home.ledger, home.dataset, rows, budget)
    ledger, entries = Ledger(account), [line.entry for line in ledgers[home.dataset]]
    accepted = [entry.fingerprint for entry in entries if isinstance(entry, Opened | RowsConfirmed)]
    if accepted[-1] == rows.fingerprint:
        raise ConfigError(
            f"the rows are the same as in the ledger ({rows.fingerprint[:12]}); there is nothing to confirm"
        )
    ledger.confirm(rows.fingerprint)
    lines = read_ledger(home.ledger, home.dataset)
    changes = [line.entry for line in lines if isinstance(line.entry, RowsChanged)]
    differences = [entry.difference or "" for entry in changes if entry.fingerprint == rows.fingerprint]
    change = {"before": accepted[-1], "now": rows.fingerprint, "difference": differences[-1]}
    home.record.append(ChangeConfirmed(dataset=home.dataset, **change))
    spent = sum(cost.epsilon for cost in study_costs(lines).values())
    return ConfirmedRows(rows.count, **change, epsilon_spent=spent)


def admit_new_dataset(home: Home, bundle: Path) -> AdmittedDataset:
    """
    Accept the dataset ``data.name`` as new, with the rows of other people than the datasets of the ledger. Raises
    ConfigError where it is the first dataset or already in the ledger, and Refused where the rows are another dataset's.
    """
    rows, budget = _rows_and_budget(home, bundle)
    Ledger.admit(LedgerAccount(home.ledger, home.dataset, rows, budget))
    first = read_ledger(home.ledger, home.dataset)[0].entry
    assert isinstance(first, Opened)
    assert first.beside is not None  # written for every dataset after the first
    beside = first.beside
    home.record.append(
        DatasetAdmitted(dataset=home.dataset, now=rows.fingerprint, rows=rows.count, beside=beside)
    )
    return AdmittedDataset(home.dataset, rows.count, beside, budget.epsilon)


def _rows_and_budget(home: Home, bundle: Path) -> tuple[RowSet, Budget]:
    """Return the rows as the plan reads them, and the budget that silo.toml gives them."""
    _, agreement = read_agreement(bundle.read_bytes(), str(bundle))
    own = home.settings.policy.privacy
    if own is None:
        raise ConfigError(
            f"{home.path / 'silo.toml'} has no [policy.privacy], so every private round is refused; add it first"
        )
    raw = read_raw_rows(SitePlan(home, agreement))
    return raw_row_hashes(raw, home.secret), Budget(own.lifetime_epsilon, own.lifetime_delta)
