"""Some of the retraining checks alone, for tests in which the others only take time."""

import os

import pytest

from fedtl.audit.retraining import checks, invariance
from fedtl.audit.retraining.checks import PRIVATE_STEP_CHECKS
from fedtl.audit.verdict import not_exercised

# Where each check is measured, by the functions of ``checks`` and ``invariance``.
MEASURED = {
    (invariance, "around_the_mechanism"): ("around the mechanism",),
    (invariance, "local_only_state"): ("local-only state",),
    (invariance, "statistics_differ"): ("statistics",),
    (invariance, "fresh_noise"): ("fresh noise",),
    (checks, "metric_noise"): ("noise of the metric",),
    (checks, "before_the_mechanism"): ("before the mechanism",),
    (checks, "_contributions"): (
        *("noisy sums alone", "noise of each release", "one record", "shares of one record"),
        *("one record in the statistics", "one record in the summaries", "one record in the metric"),
    ),
    (checks, "_private_steps"): PRIVATE_STEP_CHECKS,
}


def only(monkeypatch, names):
    """Leave out the retraining that none of these checks needs. A check's level does not depend on the others here."""
    for (module, function), its in MEASURED.items():
        if not set(its) & set(names):
            skipped = () if len(its) > 1 else not_exercised("")
            monkeypatch.setattr(module, function, lambda *_, skipped=skipped: skipped)


if "FEDTL_CHECKS" in os.environ:  # in a command of its own
    only(pytest.MonkeyPatch(), os.environ["FEDTL_CHECKS"].split(", "))
