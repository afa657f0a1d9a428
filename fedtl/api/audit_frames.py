"""The result of an audit as pandas DataFrames. A number that was not measured is NaN."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from fedtl.results.audit import AuditResult


def audit_table(result: "AuditResult") -> pd.DataFrame:
    """A row per silo: the claimed epsilon and delta, and lower bounds on epsilon from the canaries (95 % confidence)."""
    rows = {
        silo: {
            "epsilon": audit.claimed.epsilon if audit.claimed else None,
            "delta": audit.claimed.delta if audit.claimed else None,
            "bound_steinke": audit.bounds.steinke if audit.bounds else None,
            "bound_fdp": audit.bounds.fdp if audit.bounds else None,
            "bound_gaussian": audit.bounds.gaussian if audit.bounds else None,
        }
        for silo, audit in result.silos.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis("silo")


def audit_verdicts(result: "AuditResult") -> pd.DataFrame:
    """A row per silo and check; ``reason`` says why a check was not exercised."""
    rows = [
        {
            **{"silo": check.silo, "check": check.name, "status": str(check.status)},
            **{"p": check.p, "value": check.value, "reason": check.reason or ""},
        }
        for check in result.checks
    ]
    columns = ["silo", "check", "status", "p", "value", "reason"]
    return pd.DataFrame(rows, columns=columns).set_index(["silo", "check"])
