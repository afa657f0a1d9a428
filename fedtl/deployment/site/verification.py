"""
Exports a site's record and ledger, and verifies them: that the chains are intact, that an approval covered every message,
and that every private message was charged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedtl._util.files import write_bytes
from fedtl.deployment.site.egress_lines import EgressLine, UpdateSent
from fedtl.deployment.site.egress_log import export_chain, read_export
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.paid import missing_entries, private_messages
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.privacy.hash_chain import HashChainFile
from fedtl.privacy.ledger_lines import LedgerLine
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.privacy.verify import find_faults, find_uncharged, unconfirmed_rows


@dataclass(frozen=True)
class Verification:
    """
    The result for lines whose chains are intact. ``outside``: messages that no approval covered. ``unpaid``: private
    messages without a charge, and errors of the ledger. ``waiting``: the fingerprint of changed rows that are not
    confirmed, or "".
    """

    lines: int
    updates: int
    bytes_out: int
    outside: list[str]
    unpaid: list[str]
    waiting: str


def export_lines(home: Home, path: Path) -> int:
    """Write the record and, each after an empty line, the ledger of each dataset. Return the number of lines."""
    lines = list(home.record.export())
    for dataset in read_ledgers(home.ledger):
        lines += ["", *export_chain(HashChainFile(home.ledger), dataset)]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(), private=True)
    return len([line for line in lines if line])


def verify_home(home: Home) -> Verification:
    """
    Verify the record and the ledger of a site, also against the other files of its folder, which show where one of the
    two has lost an entry. Raises LedgerDamaged where a chain is broken.
    """
    lines = home.record.written()
    verification = _verify(lines, read_ledgers(home.ledger))
    reported = {f"record {text}" for text in verification.unpaid}
    lost = [entry for entry in missing_entries(home, lines) if entry not in reported]
    return replace(verification, unpaid=[*verification.unpaid, *lost])


def verify_export(path: Path) -> Verification:
    """Verify an exported file alone. Raises LedgerDamaged where a chain is broken."""
    return _verify(*read_export(path))


def _verify(lines: Sequence[EgressLine], ledgers: Mapping[str, Sequence[LedgerLine]]) -> Verification:
    sent = [line.entry for line in lines if isinstance(line.entry, UpdateSent)]
    errors = [fault for ledger in ledgers.values() for fault in find_faults(ledger)]
    changed = [unconfirmed_rows(ledger) for ledger in ledgers.values()]
    return Verification(
        lines=len(lines) + sum(map(len, ledgers.values())),
        updates=len(sent),
        bytes_out=sum(entry.bytes for entry in sent),
        outside=uncovered_lines(lines),
        unpaid=[*find_uncharged(private_messages(lines), ledgers), *errors],
        waiting=next(filter(None, changed), ""),
    )
