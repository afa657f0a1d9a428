"""Rows that occur twice, in one silo or in two: the person they belong to is protected less."""

from collections.abc import Iterator
from hashlib import blake2b

from fedtl.data.streamed import BLOCK
from fedtl.errors import FedTLError
from fedtl.experiment.study import Study


def duplicate_rows(study: Study) -> Iterator[str]:
    """Yield a line for each silo with duplicate rows, and for each pair of silos with rows in common."""
    assert study.experiment.privacy is not None
    seen: dict[str, frozenset[bytes]] = {}
    for name in study.training:
        try:
            rows = _digests(study, name)
        except FedTLError:
            continue  # the dry run reports why
        unique = frozenset(rows)
        if (copied := len(rows) - len(unique)) and study.experiment.privacy.unit == "record":
            yield f"{name}: {copied} of {len(rows)} training rows are duplicates; the person they belong to is protected less"
        for other, digests in seen.items():
            if both := sum(row in digests for row in rows):
                yield (
                    f"{name}: {both} of {len(rows)} training rows are also in {other}; for the person they belong to the epsilons of "
                    "both silos add"
                )
        seen[name] = unique


def _digests(study: Study, name: str) -> list[bytes]:
    """Return a hash of the input of each training row, without the label."""
    blocks = study.data(name).train.x.split(BLOCK)  # streamed images are read here
    rows = (row for block in blocks for row in block.flatten(1).contiguous().numpy())
    return [blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
