"""
Are these rows the rows of another dataset in the same ledger, and how do they differ from what they were? The same rows
have one budget, whatever their dataset is called.
"""

from collections.abc import Sequence

from fedtl.errors import Refused
from fedtl.privacy.hash_chain import HashChain
from fedtl.privacy.ledger_state import ALL_ROWS, confirmed_rows, ledger_state
from fedtl.privacy.rows import MAX_SHARED, RowSet, changed_rows, shared_rows


def describe_difference(before: RowSet | None, now: RowSet) -> str:
    """Return in words how the rows differ from those last confirmed. ``before`` None: written by an earlier fedtl."""
    if before is None:
        return "an earlier fedtl wrote the fingerprint before, which depended on the order of rows"
    if before.key != now.key:
        return "the file `secret` was replaced, so rows cannot be compared; restore it"
    new, gone = changed_rows(before, now)
    return f"{new} rows are new and {gone} are gone" if new or gone else "labels or units have changed"


def check_other_rows(dataset: str, rows: RowSet, others: Sequence[HashChain]) -> dict[str, int]:
    """
    Return how many of the rows also are in each of the other datasets. Raises Refused if these are the same rows, by one
    other dataset or by all others together, or if they cannot be compared.
    """
    known = {chain.name: _all_rows(dataset, rows, chain) for chain in others}
    shared = {name: _check_share(dataset, rows, name, other) for name, other in known.items()}
    if len(known) > 1:
        together, *rest = known.values()
        for other in rest:
            together = together.union(other)
        _check_share(dataset, rows, ", ".join(known), together)
    return shared


def _all_rows(dataset: str, rows: RowSet, chain: HashChain) -> RowSet:
    """Return all rows that another dataset ever had."""
    other = confirmed_rows(chain, ledger_state(chain), ALL_ROWS)
    if other is not None and other.key == rows.key:
        return other
    why = "was written by an earlier fedtl" if other is None else "was hashed with another file `secret`"
    raise Refused(
        f"{dataset}: {chain.name!r} in this ledger {why}, so its rows cannot be compared with these; set data.name = "
        f"{chain.name!r} in silo.toml, point [data] to its rows, confirm them (fedtl silo confirm), then try again"
    )


def _check_share(dataset: str, rows: RowSet, name: str, other: RowSet) -> int:
    """Return how many of the rows also are in ``other``."""
    shared = shared_rows(rows, other)
    if shared.refused:
        share = (
            "too few rows can be compared"
            if shared.share is None
            else f"{shared.share:.1%} of the rows of one of the two are shared"
        )
        raise Refused(
            f"{dataset}: these rows already have a budget as {name!r} in this ledger ({share}; {shared.rows} of {rows.count} rows "
            f"here; at most {MAX_SHARED:.0%} are allowed); set data.name = {name!r} in silo.toml, or, if they are different rows "
            "that only look alike, create another folder for them (fedtl silo init)"
        )
    return shared.rows
