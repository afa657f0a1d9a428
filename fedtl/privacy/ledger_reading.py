"""Reads a ledger, and checks whether a study fits into its budget. Nothing here writes, or creates a file."""

from pathlib import Path

from fedtl.privacy.budget import Plan, check_affordable
from fedtl.privacy.hash_chain import HashChainFile
from fedtl.privacy.ledger import LedgerAccount, check_known_dataset
from fedtl.privacy.ledger_lines import LedgerLine, parse_lines
from fedtl.privacy.ledger_state import LedgerState, ledger_state


def read_ledger(path: Path, dataset: str) -> list[LedgerLine]:
    """Return the lines of a dataset, oldest first; none if it was never charged. Raises SiloFailed, LedgerDamaged."""
    with HashChainFile(path).read(dataset) as chain:
        return parse_lines(chain.lines())


def read_ledgers(path: Path) -> dict[str, list[LedgerLine]]:
    """Return the lines of each dataset that has any. Raises SiloFailed, LedgerDamaged."""
    with HashChainFile(path).read_all() as chains:
        return {chain.name: parse_lines(chain.lines()) for chain in chains if chain.entries}


def read_state(path: Path, dataset: str) -> LedgerState | None:
    """Return what the lines of a dataset add up to; None if it was never charged."""
    with HashChainFile(path).read(dataset) as chain:
        return ledger_state(chain) if chain.entries else None


def check_study_fits(account: LedgerAccount, plan: Plan, study: str | None = None) -> None:
    """
    Raise BudgetExhausted if the whole of a study under this plan could not be charged, and Refused for rows that have a
    budget by another name. ``study`` None: its name is not known yet; an unfinished study on the same plan may continue.
    """
    with HashChainFile(account.path).read(account.dataset) as chain:
        if not chain.entries:
            check_known_dataset(account, chain)
            return check_affordable(account.dataset, study, plan, account.budget)
        state = ledger_state(chain)
    study = study or state.unfinished_study(plan)
    check_affordable(account.dataset, study, plan, account.budget, state.taken_by_others(study))


def verify_ledger(path: Path) -> dict[str, tuple[int, str]]:
    """
    Check every line and all stored bytes of a ledger; returns each dataset's number of lines and last hash. Recorded
    elsewhere, these show later whether the ledger was replaced by an older copy. Raises LedgerDamaged.
    """
    with HashChainFile(path).read_all() as chains:
        for chain in (chain for chain in chains if chain.entries):
            state = ledger_state(chain)
            for name, digest in state.kept.items():
                chain.stored(name, digest)
            for name, study in state.studies.items():
                if study.reply:
                    chain.stored(name, study.reply)
        return {chain.name: (len(chain.entries), chain.last_hash) for chain in chains}
