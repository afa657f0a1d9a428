"""
The rows of a site have changed: its steward says that this is right. What was spent stays spent, for most of them will be
the same ones; until it is said, no private round is computed on them.
"""

from pathlib import Path
from typing import Any

from fedtl.errors import ConfigError
from fedtl.home.folder import Home
from fedtl.place import Place, fingerprint
from fedtl.privacy.ledger import Budget, Ledger
from fedtl.provision.bundle import agreement_in


def confirm(home: Home, bundle: Path) -> dict[str, Any]:
    """Of the rows as the plan in ``bundle`` reads them. Raises ConfigError where nothing was ever charged or changed."""
    if not home.ledger.exists():
        raise ConfigError(
            f"{home.path}: nothing was ever charged to these rows, so there is nothing to confirm"
        )
    _, its = agreement_in(bundle.read_bytes(), str(bundle))
    raw, own = Place(home, its).raw, home.settings.policy.privacy
    if own is None:
        raise ConfigError(f"{home.path}: silo.toml has no [policy.privacy], so no private round would run")
    now = fingerprint(raw, home.secret)
    ledger = Ledger(home.ledger, home.dataset, now, Budget(own.lifetime_epsilon, own.lifetime_delta))
    written = [line["fingerprint"] for line in ledger.lines() if line["what"] in ("opened", "confirmed")]
    if written[-1] == now:
        raise ConfigError(
            f"the rows are those that the ledger knows ({now[:12]}); there is nothing to confirm"
        )
    ledger.confirm(now)
    home.record.note("confirmed", before=written[-1], now=now)
    spent, _ = ledger.spent()
    return {"rows": len(raw.train.y), "before": written[-1], "now": now, "epsilon_spent": spent}
