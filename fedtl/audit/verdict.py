"""What one check found, and which of many findings stand when the chance of any false one is bounded."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

FAMILY = 1e-4  # the chance that a sound run is refuted by anything in a whole audit
PASSED, FAILED, NOT_EXERCISED = "passed", "failed", "not exercised"

# What a check measured: its p-value (None: it had nothing to measure), the number, and the sentence if it fails.
Measured = tuple[float | None, float | None, str]


@dataclass(frozen=True)
class Check:
    """
    ``p``: the chance of such a value, or a stranger one, in a sound run; 0 for what a sound run never does. None: the
    run has nothing that this check could measure, so it neither passed nor failed.
    ``reason``: what is wrong where it fails, with the number that shows it; without a p-value, what is missing.
    """

    name: str
    silo: str
    p: float | None
    value: float | None
    reason: str


def failed(checks: Sequence[Check], family: float = FAMILY) -> list[Check]:
    """
    Those that fail when every check has an equal share of ``family``, looks and silos included. Checks that were not
    exercised keep their share, so that the level does not depend on the data.
    """
    level = family / max(1, len(checks))
    return [check for check in checks if check.p is not None and not check.p >= level]


def status(check: Check, violations: Collection[Check]) -> str:
    """Passed, failed or not exercised; ``violations``: the checks that failed in the whole audit."""
    if check.p is None:
        return NOT_EXERCISED
    return FAILED if check in violations else PASSED


def violation(check: Check) -> str:
    return f"{check.silo}: {check.name}: {check.reason}"
