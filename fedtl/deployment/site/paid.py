"""
Checks that everything private that left this site is in its ledger: before a private round is charged, and before its
reply leaves.

A ledger that was deleted or replaced by an older copy has lost charges, which the egress record and the stored state of
studies still show. This cannot detect that all files of the folder were replaced from one older copy or deleted together,
nor files written by somebody with write access to the folder. Against these, keep the ledger's last hash elsewhere.
"""

from collections.abc import Iterable, Sequence

from fedtl.deployment.site.approvals import read_approvals
from fedtl.deployment.site.egress_lines import EgressLine, PlanApproved, TaskReceived, UpdateSent
from fedtl.deployment.site.home import Home
from fedtl.errors import Refused
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.privacy.verify import PrivateMessage, find_uncharged

RESTORE = (
    "a file was deleted or replaced by an older copy; restore ledger.sqlite and record.sqlite, each with its .tip, from one copy "
    "that was made after the last private update; without such a copy it is unknown what was spent on these rows, and no "
    "private round may use them again"
)


def private_messages(lines: Iterable[EgressLine]) -> list[PrivateMessage]:
    """Return what left as private, for a comparison with the ledgers."""
    return [
        PrivateMessage(line.number, entry.study, entry.round, entry.task, entry.dataset)
        for line in lines
        if isinstance(entry := line.entry, UpdateSent) and entry.private
    ]


def missing_entries(home: Home, lines: Sequence[EgressLine]) -> list[str]:
    """Return what the record, with these lines, or the ledger should hold and does not, a line each."""
    entries = [line.entry for line in lines]
    approved = {entry.plan for entry in entries if isinstance(entry, PlanApproved)}
    received = {entry.study for entry in entries if isinstance(entry, TaskReceived)}
    stored = sorted(path.name for path in home.state.iterdir()) if home.state.is_dir() else []
    missing = [
        f"plan {approval.plan[:12]} is in approved.json, but the record does not hold its approval"
        for approval in read_approvals(home.approved)
        if approval.plan not in approved
    ]
    missing += [
        f"state/{study} exists, but the record has no study of this name"
        for study in stored
        if study not in received
    ]
    ledgers = read_ledgers(home.ledger)
    missing += [f"record {text}" for text in find_uncharged(private_messages(lines), ledgers)]
    return missing + [
        f"state/{last.study}: round {last.round} was answered privately, and the ledger has no charge for it"
        for last in home.states.last_private_rounds()
        if find_uncharged([PrivateMessage(0, last.study, last.round, last.task)], ledgers)
    ]


def check_ledger_complete(home: Home) -> None:
    """Check the record and the ledger before a private round. Raises Refused if one of them has lost an entry."""
    if missing := missing_entries(home, home.record.lines()):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise Refused(f"{home.path}: {missing[0]}{more}: {RESTORE}")


def check_reply_paid(home: Home, study: str, round: int, task: str) -> None:
    """Check a private reply before it leaves. Raises Refused if the ledger of its dataset has no charge for it."""
    if find_uncharged([PrivateMessage(0, study, round, task, home.dataset)], read_ledgers(home.ledger)):
        raise Refused(
            f"dataset {home.dataset!r}: the private reply to round {round} of study {study!r} must not leave, because the ledger "
            f"has no charge for it: {RESTORE}"
        )
