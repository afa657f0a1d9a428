"""
What a metric can be: no interval and no gain that is shown goes further. The numbers in JSON stay what was computed.

Student's t does not know the limits of a metric: with five test rows, its interval of a difference in accuracy may reach from
-139 to +19 points. What is shown is the part of it that can be true, which holds the truth as often as the whole.
"""

from collections.abc import Iterable

from fedtl.results.comparison import Comparison, Gain, Interval, Overall
from fedtl.tasks.metrics import METRICS

LOCAL = "local"  # the column of training alone


def bounded(metric: str, ends: Interval) -> Interval:
    """Return the part of the interval of a value that lies within the limits of the metric."""
    own = METRICS[metric]
    return tuple(min(max(end, own.low), own.high) for end in ends)


def bounded_gain(metric: str, ends: Interval) -> Interval:
    """Return the part of the interval of a difference between two values of the metric that can be."""
    largest = largest_difference(metric)
    return tuple(min(max(end, -largest), largest) for end in ends)


def largest_difference(metric: str) -> float:
    """Return the largest difference between two values of the metric, such as 1 for accuracy; infinite without limits."""
    return METRICS[metric].high - METRICS[metric].low


def passes_limits(metric: str, gains: Iterable[Gain]) -> bool:
    """Return whether the interval of a gain was computed to be wider than it can be."""
    return any(gain.ci95 is not None and bounded_gain(metric, gain.ci95) != gain.ci95 for gain in gains)


def gains_shown(comparison: Comparison) -> list[Gain]:
    """Return every gain over training alone: of each method at each silo, of what a silo chooses, and their means over silos."""
    chosen = [Gain(own.over_local, own.ci95) for own in comparison.benefit.values()]
    overall: list[Overall] = [*comparison.overall.values(), *filter(None, [comparison.joining])]
    means = [gain for own in overall for gain in (own.mean, own.worst_gain)]
    return [
        *chosen,
        *means,
        *(gain for by_silo in comparison.over_local.values() for gain in by_silo.values()),
    ]


def could_be_seen(comparison: Comparison, silo: str) -> bool:
    """
    Return whether a gain of the detectable size is possible at the silo. The largest gain that is possible leads from the worst end of
    the interval of training alone to the best value of the metric.
    """
    metric, size = comparison.metric, comparison.benefit[silo].detectable
    alone = comparison.methods.get(LOCAL, {}).get(silo, {}).get(metric)
    if size is None:
        return False
    if alone is None or alone.ci95 is None:
        return size <= largest_difference(metric)
    low, high = alone.ci95
    own = METRICS[metric]
    return size <= (high - own.low if own.lower_is_better else own.high - low)
