"""The result of one check, and which checks fail when the probability of any false alarm in a whole audit is bounded."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedtl.results.audit import CheckResult, Status

FAMILY_LEVEL = 1e-4  # the probability that any check of a whole audit fails although the run is sound


class Measurement(NamedTuple):
    """
    What a check measured. ``p``: the probability of such a value, or a more extreme one, in a sound run; 0 for what a
    sound run never does; None if the run has nothing that the check could measure. ``value``: the number measured.
    ``reason``: what is wrong if the check fails, with the number that shows it; if ``p`` is None, what is missing.
    """

    p: float | None
    value: float | None
    reason: str


def not_exercised(reason: str) -> Measurement:
    return Measurement(None, None, reason)


def exact(passed: bool, value: float | None, reason: str) -> Measurement:
    """The measurement of a check that every sound run passes."""
    return Measurement(float(passed), value, reason)


@dataclass(frozen=True)
class Check:
    """A named measurement at one silo, or at two; see Measurement."""

    name: str
    silo: str
    p: float | None
    value: float | None
    reason: str


def failed(checks: Sequence[Check], family_level: float = FAMILY_LEVEL) -> list[Check]:
    """
    Return the checks that fail when each has an equal share of ``family_level`` (Bonferroni). Checks that were not
    exercised keep their share, so that the level does not depend on the data. A p-value that is not a number fails.
    """
    level = family_level / max(1, len(checks))
    return [check for check in checks if check.p is not None and not check.p >= level]


def status(check: Check, violations: Collection[Check]) -> Status:
    """Whether a check passed, failed or was not exercised. ``violations``: the checks that failed in the whole audit."""
    if check.p is None:
        return Status.NOT_EXERCISED
    return Status.FAILED if check in violations else Status.PASSED


def check_result(check: Check, violations: Collection[Check]) -> CheckResult:
    """The check as a result file holds it."""
    p, value = (None if number is None else float(number) for number in (check.p, check.value))
    reason = check.reason if p is None else None
    return CheckResult(check.silo, check.name, status(check, violations), p, value, reason)


def describe_violation(check: Check) -> str:
    return f"{check.silo}: {check.name}: {check.reason}"
