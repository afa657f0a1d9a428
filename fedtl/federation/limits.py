"""
How much one update may count: its weight in the mean and its largest norm, which the plan fixes; and which updates of a
finished round stand out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

MAX_WEIGHT = 1e12  # rows; a larger weight would overflow sums
LARGE_NORM = 5.0  # times the median of the other updates
LARGE_SHARE = 0.5  # of the weight of a round
FEWEST = 3  # updates of a round in which one can stand out
NO_ROW_COUNT = 1.0  # what a silo states whose row count stays at home
MANY_ROWS = 10.0  # of another silo, which make it unlikely that a silo has one row


@dataclass(frozen=True)
class UpdateLimits:
    """
    ``weights``: "rows": an update counts by the weight that its silo states, at most ``max_weight``; "equal": every update counts
    1. ``max_norm``: the largest Euclidean norm of an update over all its tensors; a larger one does not count; None: any.
    """

    weights: Literal["rows", "equal"] = "rows"
    max_weight: float = MAX_WEIGHT
    max_norm: float | None = None

    def weight(self, stated: float) -> float:
        """Return the weight with which an update counts whose silo states this one."""
        return 1.0 if self.weights == "equal" else min(stated, self.max_weight)

    def fault(self, stated: float, norm: float) -> str | None:
        """Return why an update does not count, or None."""
        if not 0 < stated <= MAX_WEIGHT:
            return f"its weight is {stated}; it must be above 0 and at most {MAX_WEIGHT:g}"
        if self.max_norm is not None and norm > self.max_norm:
            return f"its update has norm {norm:.4g}; the plan allows {self.max_norm:.4g} (updates.max_norm)"
        return None


NO_LIMITS = UpdateLimits()


def outliers(
    weights: Mapping[str, float], norms: Mapping[str, float], limits: UpdateLimits
) -> tuple[str, ...]:
    """
    Return a sentence for each silo whose update stands out in a round of at least ``FEWEST`` updates: a norm above
    ``LARGE_NORM`` times the median of the others', or more than ``LARGE_SHARE`` of the weight. In a round of any size, also one for
    each silo that counts as one row where another one counts as at least ``MANY_ROWS``. ``weights``: as stated.
    """
    counted = {name: limits.weight(stated) for name, stated in weights.items()}
    if len(norms) < FEWEST:
        return _without_row_count(counted)
    total = sum(counted.values())
    found = []
    for name, norm in norms.items():
        usual = median(other for silo, other in norms.items() if silo != name)
        if norm > LARGE_NORM * usual:
            found.append(f"{name}: its update has norm {norm:.4g}; the median of the others is {usual:.4g}")
        if (share := counted[name] / total) > LARGE_SHARE:
            found.append(f"{name}: its update has {share:.0%} of the weight of the round")
    return (*found, *_without_row_count(counted))


def _without_row_count(counted: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence for each silo that counts as one row where another one counts as many. ``counted``: the weights with which updates count."""
    most = max(counted.values(), default=0.0)
    if most < MANY_ROWS:
        return ()
    return tuple(
        f"{name}: its update counts as 1 row, which is what a silo sends that does not share its row count, and another one counts as {most:g}; "
        'set updates.weights = "equal" in the next study'
        for name, weight in counted.items()
        if weight == NO_ROW_COUNT
    )
