"""
Is everything private that left this site in its ledger? Asked before a private round is charged and before its reply leaves.

A ledger that was deleted, or put back from an older copy, has forgotten charges; the egress record and the kept state of
studies still show them. Not seen: all files of the folder put back from one older copy, or all of them deleted together, and
what somebody writes anew who can write to the folder. Against these, note the ledger's last hash down elsewhere.
"""

from fedtl.deployment.site.approvals import approvals
from fedtl.deployment.site.home import Home
from fedtl.errors import Refused
from fedtl.privacy.ledger_lines import LedgerLine
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.privacy.verify import find_uncharged

RESTORE = (
    "a file was deleted or put back from an older copy; put ledger.sqlite and record.sqlite, each with its .tip, back from one "
    "copy that is younger than the last private update; without such a copy nobody knows what was spent on these rows, and no "
    "private round may run on them again"
)


def ledgers(home: Home) -> dict[str, list[LedgerLine]]:
    """Each dataset's lines; none where nothing was ever charged. Raises LedgerDamaged."""
    return read_ledgers(home.ledger)


def gaps(home: Home) -> list[str]:
    """What the record or the ledger has forgotten, a line each; none: neither was seen to be deleted or replaced."""
    lines = home.record.lines()
    approved = {line["plan"] for line in lines if line["what"] == "approved"}
    received = {line["study"] for line in lines if line["what"] == "received"}
    found = [
        f"plan {one.plan[:12]} is approved, and the record does not say so"
        for one in approvals(home.approved)
        if one.plan not in approved
    ]
    found += [
        f"state/{study} is kept, and the record knows no such study"
        for study in (sorted(path.name for path in home.state.iterdir()) if home.state.is_dir() else ())
        if study not in received
    ]
    books = ledgers(home)
    sent = [line for line in lines if line["what"] == "sent"]
    found += [f"record {text}" for text in find_uncharged(sent, books)]
    kept = [{"number": 0, "private": True, **its} for its in home.memory.charged()]
    return found + [
        f"state/{its['study']}: round {its['round']} was answered in private, and the ledger has no charge for it"
        for its in kept
        if find_uncharged([its], books)
    ]


def check(home: Home) -> None:
    """Before a private round. Raises Refused, in one line, where a file has forgotten something."""
    if found := gaps(home):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Refused(f"{home.path}: {found[0]}{more}: {RESTORE}")


def check_reply(home: Home, study: str, round: int, task: str) -> None:
    """Before a private reply leaves: it was charged to the rows that it is about. Raises Refused."""
    line = {
        "number": 0,
        "study": study,
        "round": round,
        "task": task,
        "private": True,
        "dataset": home.dataset,
    }
    if find_uncharged([line], ledgers(home)):
        raise Refused(
            f"{home.dataset}: round {round} of study {study!r} would leave as private, and the ledger has no charge for it: {RESTORE}"
        )
