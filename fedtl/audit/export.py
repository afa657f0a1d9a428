"""
A site's papers in the auditor's hands: the egress record and the ledger as ``fedtl silo ledger --export`` writes them. What
they say of themselves, recomputed from this one file; of the run itself nothing is seen, so nothing is measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtl.audit.transcript import SECOND, second
from fedtl.audit.verdict import Check, failed, violation
from fedtl.deployment.site import covered
from fedtl.deployment.site import egress_log as record
from fedtl.errors import LedgerDamaged
from fedtl.privacy import prv as opinion
from fedtl.privacy.verify import find_faults, find_uncharged, study_costs


def examine(path: Path) -> dict[str, Any]:
    """Every study that was planned, each check, and what is refuted. Raises ConfigError for a file that is no export."""
    try:
        lines, ledgers = record.read_export(path)
    except LedgerDamaged as error:
        checks = [Check("chain", path.name, 0.0, None, str(error))]
        return {"silo": None, "studies": {}, **_told(checks)}
    silo = str(lines[0]["chain"]) if lines else path.name
    sent = [line for line in lines if line["what"] == "sent"]
    faults = {
        "chain": [],
        "approval": [f"{odd}, and it left" for odd in covered.uncovered(lines)],
        "ledger arithmetic": [fault for ledger in ledgers.values() for fault in find_faults(ledger)],
        "link to messages": find_uncharged(sent, ledgers),
    }
    checks = [Check(name, silo, float(not its), None, "; ".join(its[:3])) for name, its in faults.items()]
    studies: dict[str, dict[str, Any]] = {}
    for ledger in ledgers.values():
        for name, its in study_costs(ledger).items():
            studies[name] = {
                "epsilon": its.epsilon,
                "delta": its.delta,
                "charged": its.charged,
                "round": its.round,
            }
            theirs = opinion.prv_epsilon(its.planned, its.delta)
            fault = second(its.epsilon, theirs)
            checks.append(Check(f"{SECOND}: {name}", silo, float(not fault), theirs, fault))
    return {"silo": silo, "studies": studies, "updates": len(sent), **_told(checks)}


def _told(checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "checks": [{"name": its.name, "p": its.p, "value": its.value} for its in checks],
        "violations": [violation(its) for its in failed(checks)],
    }
