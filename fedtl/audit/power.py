"""
How large a fault in noise or clip the canaries of one silo would have shown: what a passed check is worth.

Knows how many values a check looks at, and not what they were.
"""

import math
from collections.abc import Sequence

from scipy.stats import norm

from fedtl.audit.canaries.log import CanaryPhase, sampled, steps
from fedtl.audit.canaries.one_run import SURE


def resolution(run: Sequence[CanaryPhase], noise_multiplier: float, level: float) -> dict[str, float | None]:
    """
    The relative error of the noise's standard deviation, and the error of one record's contribution in clips, that the
    checks refute at ``level`` with a chance of SURE. Normal approximations: 1 / sqrt(2 n) for a standard deviation of n
    values, sigma / sqrt(n) for a mean. None: no canary was ever sampled.
    """
    reach = float(norm.isf(level / 2) + norm.ppf(SURE))
    values = steps(run)[:, ~run[0].member].size
    held = int(sampled(run).sum())
    return {
        "noise": reach / math.sqrt(2 * max(values, 1)),
        "sensitivity": reach * noise_multiplier / math.sqrt(held) if held else None,
    }
