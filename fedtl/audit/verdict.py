"""What one check found, and which of many findings stand when the chance of any false one is bounded."""

from collections.abc import Sequence
from dataclasses import dataclass

FAMILY = 1e-4  # the chance that a sound run is refuted by anything in a whole audit


@dataclass(frozen=True)
class Check:
    """
    ``p``: the chance of such a value, or a stranger one, in a sound run; 0 for what a sound run never does.
    ``reason``: what is wrong where it fails, with the number that shows it.
    """

    name: str
    silo: str
    p: float
    value: float | None
    reason: str


def failed(checks: Sequence[Check], family: float = FAMILY) -> list[Check]:
    """Those that fail when every check has an equal share of ``family``, looks and silos included."""
    level = family / max(1, len(checks))
    return [check for check in checks if not check.p >= level]


def violation(check: Check) -> str:
    return f"{check.silo}: {check.name}: {check.reason}"
