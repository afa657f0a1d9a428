"""
Audits a site's egress log and ledger as ``fedtl silo ledger --export`` writes them.

Recomputes what can be recomputed from this file. The run itself is not seen, so nothing is measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtl.audit.transcript import SECOND_COMPOSITION, composition_fault
from fedtl.audit.verdict import Check, check_result, describe_violation, failed
from fedtl.deployment.site import egress_log
from fedtl.deployment.site.egress_lines import UpdateSent
from fedtl.deployment.site.paid import private_messages
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.errors import LedgerDamaged
from fedtl.privacy.prv import prv_epsilon
from fedtl.privacy.verify import find_faults, find_uncharged, study_costs
from fedtl.results.audit import CheckResult

SHOWN_FAULTS = 3  # the most faults of one check that its reason lists


@dataclass(frozen=True)
class StudyCharge:
    """The epsilon and delta of a study's whole plan, and the epsilon ``charged`` up to ``round``."""

    epsilon: float
    delta: float
    charged: float
    round: int


@dataclass(frozen=True)
class ExportAudit:
    """
    The result of the audit of an export. ``updates``: how many left the site; None if the file's hash chain does not
    hold, so that nothing was read.
    """

    silo: str | None
    studies: Mapping[str, StudyCharge]
    updates: int | None
    checks: tuple[CheckResult, ...]
    violations: tuple[str, ...]


def audit_export(path: Path) -> ExportAudit:
    """Audit an exported egress log and its ledgers. Raises ConfigError for a file that is not an export."""
    try:
        lines, ledgers = egress_log.read_export(path)
    except LedgerDamaged as error:
        return _audit(None, {}, None, [Check("chain", path.name, 0.0, None, str(error))])
    silo = lines[0].chain if lines else path.name
    faults = {
        "chain": [],
        "approval": [f"{fault}, but it left the site" for fault in uncovered_lines(lines)],
        "ledger arithmetic": [fault for ledger in ledgers.values() for fault in find_faults(ledger)],
        "link to messages": find_uncharged(private_messages(lines), ledgers),
    }
    checks = [
        Check(name, silo, float(not messages), None, "; ".join(messages[:SHOWN_FAULTS]))
        for name, messages in faults.items()
    ]
    studies: dict[str, StudyCharge] = {}
    for ledger in ledgers.values():
        for name, cost in study_costs(ledger).items():
            studies[name] = StudyCharge(cost.epsilon, cost.delta, cost.charged, cost.round)
            second = prv_epsilon(cost.planned, cost.delta)
            fault = composition_fault(cost.epsilon, second)
            checks.append(Check(f"{SECOND_COMPOSITION}: {name}", silo, float(not fault), second, fault))
    return _audit(silo, studies, sum(isinstance(line.entry, UpdateSent) for line in lines), checks)


def _audit(
    silo: str | None, studies: Mapping[str, StudyCharge], updates: int | None, checks: Sequence[Check]
) -> ExportAudit:
    violations = failed(checks)
    results = tuple(check_result(check, violations) for check in checks)
    return ExportAudit(silo, studies, updates, results, tuple(map(describe_violation, violations)))
