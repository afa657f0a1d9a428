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
from fedtl.deployment.site.seen_rounds import SeenRounds, read_seen_rounds
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.errors import ConfigError
from fedtl.privacy.hash_chain import HashChainFile
from fedtl.privacy.ledger_lines import LedgerLine
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.privacy.verify import find_faults, find_uncharged, unconfirmed_rows


@dataclass(frozen=True)
class Verification:
    """
    The result for lines whose chains are intact. ``until``: when the last line of the record was written; "" where it has none. ``outside``: messages that no approval covered. ``unpaid``: private messages without a charge, and errors of the
    ledger. ``unrecorded``: updates that the coordinator has and the record does not. ``waiting``: the fingerprint of changed rows that are
    not confirmed, or "".
    """

    until: str
    lines: int
    updates: int
    bytes_out: int
    outside: list[str]
    unpaid: list[str]
    unrecorded: list[str]
    waiting: str

    @property
    def faults(self) -> bool:
        """Whether something is shown to be wrong."""
        return bool(self.outside or self.unpaid or self.unrecorded)


def export_lines(home: Home, path: Path) -> int:
    """Write the record and, each after an empty line, the ledger of each dataset. Return the number of lines."""
    lines = list(home.record.export())
    for dataset in read_ledgers(home.ledger):
        lines += ["", *export_chain(HashChainFile(home.ledger), dataset)]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(), private=True)
    return len([line for line in lines if line])


def verify_home(home: Home, seen: Path | None = None) -> Verification:
    """
    Verify the record and the ledger of a site, also against the other files of its folder, which show where one of the
    two has lost an entry. ``seen``: as in ``verify_export``. Raises LedgerDamaged where a chain is broken.
    """
    lines = home.record.written()
    verification = _verify(lines, read_ledgers(home.ledger), _rounds(home.settings.name, seen))
    reported = {f"record {text}" for text in verification.unpaid}
    lost = [entry for entry in missing_entries(home, lines) if entry not in reported]
    return replace(verification, unpaid=[*verification.unpaid, *lost])


def verify_export(path: Path, seen: Path | None = None) -> Verification:
    """
    Verify an exported file alone. Whether lines at its end were cut off, the file cannot show; ``seen``, the rounds of the site as
    ``fedtl server rounds`` wrote them, can. Raises LedgerDamaged where a chain is broken, and ConfigError for a file without a record, of
    which nothing can be verified.
    """
    lines, ledgers = read_export(path)
    if not lines:
        raise ConfigError(
            f"{path} holds no line of a record, so there is nothing to verify; export it: fedtl silo ledger DIR --export FILE"
        )
    return _verify(lines, ledgers, _rounds(lines[0].chain, seen))


def _rounds(site: str, seen: Path | None) -> dict[str, SeenRounds]:
    return {} if seen is None else read_seen_rounds(seen, site)


def _verify(
    lines: Sequence[EgressLine],
    ledgers: Mapping[str, Sequence[LedgerLine]],
    rounds: Mapping[str, SeenRounds],
) -> Verification:
    sent = [line.entry for line in lines if isinstance(line.entry, UpdateSent)]
    errors = [fault for ledger in ledgers.values() for fault in find_faults(ledger)]
    changed = [unconfirmed_rows(ledger) for ledger in ledgers.values()]
    return Verification(
        until=lines[-1].at if lines else "",
        lines=len(lines) + sum(map(len, ledgers.values())),
        updates=len(sent),
        bytes_out=sum(entry.bytes for entry in sent),
        outside=uncovered_lines(lines),
        unpaid=[*find_uncharged(private_messages(lines), ledgers), *errors],
        unrecorded=_unrecorded(sent, rounds),
        waiting=next(filter(None, changed), ""),
    )


def _unrecorded(sent: Sequence[UpdateSent], rounds: Mapping[str, SeenRounds]) -> list[str]:
    """Return the updates that the coordinator has, and the record does not."""
    recorded = {(entry.study, entry.round) for entry in sent}
    return [
        f"round {number} of study {study!r}"
        for study, own in rounds.items()
        for number in own.counted
        if (study, number) not in recorded
    ]
