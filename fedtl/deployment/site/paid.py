"""
Checks that everything private that left this site is in its ledger: before a private round is charged, and before its
reply leaves.

A ledger that was deleted or replaced by an older copy has lost charges, which the egress record and the stored state of
studies still show. This cannot detect that all files of the folder were replaced from one older copy or deleted together,
nor files written by somebody with write access to the folder. Against these, keep the ledger's last hash elsewhere.
"""

from fedtl.deployment.site.approvals import read_approvals
from fedtl.deployment.site.home import Home
from fedtl.errors import Refused
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.privacy.verify import find_uncharged

RESTORE = (
    "a file was deleted or replaced by an older copy; restore ledger.sqlite and record.sqlite, each with its .tip, from one copy "
    "that was made after the last private update; without such a copy it is unknown what was spent on these rows, and no "
    "private round may use them again"
)


def missing_entries(home: Home) -> list[str]:
    """Return what the record or the ledger should hold and does not, a line each."""
    lines = home.record.lines()
    approved = {line["plan"] for line in lines if line["what"] == "approved"}
    received = {line["study"] for line in lines if line["what"] == "received"}
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
    sent = [line for line in lines if line["what"] == "sent"]
    missing += [f"record {text}" for text in find_uncharged(sent, ledgers)]
    return missing + [
        f"state/{last.study}: round {last.round} was answered privately, and the ledger has no charge for it"
        for last in home.states.last_private_rounds()
        if find_uncharged([_private_line(last.study, last.round, last.task)], ledgers)
    ]


def check_ledger_complete(home: Home) -> None:
    """Check the record and the ledger before a private round. Raises Refused if one of them has lost an entry."""
    if missing := missing_entries(home):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise Refused(f"{home.path}: {missing[0]}{more}: {RESTORE}")


def check_reply_paid(home: Home, study: str, round: int, task: str) -> None:
    """Check a private reply before it leaves. Raises Refused if the ledger of its dataset has no charge for it."""
    line = {**_private_line(study, round, task), "dataset": home.dataset}
    if find_uncharged([line], read_ledgers(home.ledger)):
        raise Refused(
            f"dataset {home.dataset!r}: the private reply to round {round} of study {study!r} must not leave, because the ledger "
            f"has no charge for it: {RESTORE}"
        )


def _private_line(study: str, round: int, task: str) -> dict[str, str | int | bool]:
    """Return the keys by which a line of the record identifies a private message."""
    return {"number": 0, "private": True, "study": study, "round": round, "task": task}
