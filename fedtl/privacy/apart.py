"""
Are these rows another dataset's of the same ledger, and how do they differ from what they were? One data set has one
budget, whatever its name.
"""

from collections.abc import Sequence

from fedtl.errors import Refused
from fedtl.privacy.account import EVER, Account
from fedtl.privacy.hash_chain import HashChain
from fedtl.privacy.rows import SHARE, RowSet, changes, shared


def difference(before: RowSet | None, now: RowSet) -> str:
    """How the rows differ from those that were last confirmed, in words; None: an earlier fedtl wrote those down."""
    if before is None:
        return "an earlier fedtl wrote the first, which depended on the order of rows"
    if before.key != now.key:
        return "the file `secret` is another one, so no row can be recognised; put it back"
    new, gone = changes(before, now)
    return f"{new} rows are new and {gone} are gone" if new or gone else "labels or units have changed"


def told_apart(dataset: str, rows: RowSet, others: Sequence[HashChain]) -> dict[str, int]:
    """
    How many of the rows stand in each of the other datasets. Raises Refused where these are the same rows, by one other
    dataset or by all others together, and where that cannot be told.
    """
    known = {chain.name: _known(dataset, rows, chain) for chain in others}
    found = {name: _shares(dataset, rows, name, theirs) for name, theirs in known.items()}
    if len(known) > 1:
        together, *rest = known.values()
        for theirs in rest:
            together = together.union(theirs)
        _shares(dataset, rows, ", ".join(known), together)
    return found


def _known(dataset: str, rows: RowSet, chain: HashChain) -> RowSet:
    """All rows that another dataset ever had."""
    theirs = Account(chain).rows(EVER)
    if theirs is not None and theirs.key == rows.key:
        return theirs
    why = "was written by an earlier fedtl" if theirs is None else "has rows hashed under another `secret`"
    raise Refused(
        f"{dataset}: {chain.name!r} in this ledger {why}, so it cannot be told whether these are the same rows; set data.name "
        f"= {chain.name!r} in silo.toml, point [data] to its rows, confirm them (fedtl silo confirm), and come back"
    )


def _shares(dataset: str, rows: RowSet, name: str, theirs: RowSet) -> int:
    """How many rows stand in ``theirs`` as well."""
    its = shared(rows, theirs)
    if its.refused:
        share = (
            "too few can be compared"
            if its.share is None
            else f"{its.share:.1%} of the rows of one of the two"
        )
        raise Refused(
            f"{dataset}: its rows are {name!r} in this ledger ({share}; {its.rows} of {rows.count} rows here; at most "
            f"{SHARE:.0%} may be), and have a budget there; set data.name = {name!r} in silo.toml, or, for other people's "
            "rows that only look alike, make a folder of their own (fedtl silo init)"
        )
    return its.rows
