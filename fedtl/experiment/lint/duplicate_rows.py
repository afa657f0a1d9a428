"""Rows that stand twice, in a silo or in two of them: whoever's they are is protected as often less."""

from collections.abc import Iterator
from hashlib import blake2b

from fedtl.errors import FedTLError
from fedtl.experiment.study import Study


def copies(study: Study) -> Iterator[str]:
    """A line for each silo with copies of its own, and for each whose rows stand in another that trains."""
    assert study.experiment.privacy is not None
    seen: dict[str, frozenset[bytes]] = {}
    for name in study.training:
        try:
            rows = _digests(study, name)
        except FedTLError:
            continue  # why it has no rows is among what would be refused
        unique = frozenset(rows)
        if (copied := len(rows) - len(unique)) and study.experiment.privacy.unit == "record":
            yield f"{name}: {copied} of {len(rows)} training rows are copies of another; whoever's they are is protected less"
        for other, its in seen.items():
            if both := sum(row in its for row in rows):
                yield (
                    f"{name}: {both} of {len(rows)} training rows also stand in {other}; each of the two silos charges its own "
                    "epsilon, and for whoever's they are the epsilons add"
                )
        seen[name] = unique


def _digests(study: Study, name: str) -> list[bytes]:
    """Of each training row's input, whatever its label."""
    x = study.data(name).train.x.flatten(1).contiguous().numpy()
    return [blake2b(row.tobytes(), digest_size=16).digest() for row in x]
