"""
What only a steward can say of a site's rows: that changed rows are right, or that a new dataset holds other people's rows.
Until it is said, no private round is computed on them. What was spent on a dataset stays spent.
"""

from pathlib import Path
from typing import Any

from fedtl.deployment.coordinator.bundle import agreement_in
from fedtl.deployment.site import paid
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan, row_hashes
from fedtl.errors import ConfigError
from fedtl.privacy.budget import Budget
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_lines import Opened, RowsChanged, RowsConfirmed
from fedtl.privacy.ledger_reading import read_ledger
from fedtl.privacy.rows import RowSet
from fedtl.privacy.verify import study_costs


def confirm(home: Home, bundle: Path) -> dict[str, Any]:
    """
    Changed rows are right, as the plan in ``bundle`` reads them. Raises ConfigError where nothing was ever charged or
    changed, and Refused where they are another dataset's.
    """
    if home.dataset not in (books := paid.ledgers(home)):
        known = ", ".join(map(repr, books))
        raise ConfigError(
            f"{home.dataset}: is not in this ledger, which has {known}; if these are other people's rows, add --new-dataset"
            if books
            else f"{home.path}: nothing was ever charged to these rows, so there is nothing to confirm"
        )
    now, budget = _asked(home, bundle)
    account = LedgerAccount(home.ledger, home.dataset, now, budget)
    ledger, lines = Ledger(account), books[home.dataset]
    written = [line.entry.fingerprint for line in lines if isinstance(line.entry, Opened | RowsConfirmed)]
    if written[-1] == now.fingerprint:
        raise ConfigError(
            f"the rows are those that the ledger knows ({now.fingerprint[:12]}); there is nothing to confirm"
        )
    ledger.confirm(now.fingerprint)
    lines = read_ledger(home.ledger, home.dataset)
    met = [line.entry for line in lines if isinstance(line.entry, RowsChanged)]
    how = [entry.difference or "" for entry in met if entry.fingerprint == now.fingerprint]
    spent = sum(cost.epsilon for cost in study_costs(lines).values())
    told = {"before": written[-1], "now": now.fingerprint, "difference": how[-1]}
    home.record.note("confirmed", dataset=home.dataset, **told)
    return {"rows": now.count, **told, "epsilon_spent": spent}


def admit(home: Home, bundle: Path) -> dict[str, Any]:
    """
    The dataset of ``data.name`` is new and its rows are other people's, as the plan in ``bundle`` reads them. Raises
    ConfigError where it is the first one or in the ledger already, and Refused where the rows are another dataset's.
    """
    now, budget = _asked(home, bundle)
    Ledger.admit(LedgerAccount(home.ledger, home.dataset, now, budget))
    first = read_ledger(home.ledger, home.dataset)[0].entry
    assert isinstance(first, Opened)
    beside = first.beside
    home.record.note("admitted", dataset=home.dataset, now=now.fingerprint, rows=now.count, beside=beside)
    return {"dataset": home.dataset, "rows": now.count, "beside": beside, "lifetime_epsilon": budget.epsilon}


def _asked(home: Home, bundle: Path) -> tuple[RowSet, Budget]:
    """The rows as the plan reads them, and the budget that silo.toml gives them."""
    _, its = agreement_in(bundle.read_bytes(), str(bundle))
    own = home.settings.policy.privacy
    if own is None:
        raise ConfigError(f"{home.path}: silo.toml has no [policy.privacy], so no private round would run")
    return row_hashes(SitePlan(home, its).raw, home.secret), Budget(own.lifetime_epsilon, own.lifetime_delta)
