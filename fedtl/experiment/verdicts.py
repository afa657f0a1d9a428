"""
What the gains over training alone show: a verdict for each silo, corrected for looking at many silos, and all silos together.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from fedtl.experiment.uncertainty import LEVEL, Measurement, mean_of
from fedtl.results.comparison import Gain, Overall, Verdict

Key = TypeVar("Key", bound=Hashable)  # a silo, or a pair of silos


def gains_of(differences: Mapping[Key, Measurement], margins: Mapping[Key, float]) -> dict[Key, Gain]:
    """
    Return the gain of each silo with its verdict. ``differences``: a method minus training alone, by silo; above zero is
    better. ``margins``: by silo, up to which difference a method is as good as another.

    The p-values are corrected for the number of silos by Benjamini and Hochberg (1995): of the silos that are said to gain
    or to lose, at most 5 % are expected to be said so wrongly; the same holds for those that are said to be as good.
    """
    single = {silo: gain_of(own, margins[silo]) for silo, own in differences.items()}
    p = _corrected({silo: gain.p for silo, gain in single.items()})
    p_as_good = _corrected({silo: gain.p_as_good for silo, gain in single.items()})
    gains = {
        silo: replace(gain, p=p[silo], p_as_good=p_as_good[silo]) if gain.ci95 else gain
        for silo, gain in single.items()
    }
    return {silo: replace(gain, verdict=verdict(gain)) for silo, gain in gains.items()}


def gain_of(difference: Measurement, margin: float) -> Gain:
    """Return one gain with its verdict, without correction."""
    certainty = difference.certainty()
    gain = Gain(
        certainty.mean,
        certainty.interval(),
        p=certainty.p_difference(),
        p_as_good=certainty.p_equivalence(margin),
        detectable=certainty.detectable(),
        margin=margin,
    )
    return replace(gain, verdict=verdict(gain))


def verdict(gain: Gain) -> Verdict:
    """
    Return what the p-values of a gain show. A difference that is shown to be smaller than the margin is "as good", on
    whichever side of zero it is.
    """
    if gain.p is None or gain.p_as_good is None:
        return Verdict.UNCLEAR
    if gain.p_as_good <= LEVEL:
        return Verdict.AS_GOOD
    if gain.p > LEVEL:
        return Verdict.UNCLEAR
    return Verdict.GAINS if gain.mean > 0 else Verdict.LOSES


def overall(differences: Mapping[str, Measurement], gains: Mapping[str, Gain]) -> Overall | None:
    """Return a method over all silos; None where there are none."""
    if not gains:
        return None
    margin = float(np.mean([gain.margin for gain in gains.values()]))
    worst = min(sorted(gains), key=lambda silo: gains[silo].mean)
    ends = [gain.ci95 for gain in gains.values() if gain.ci95]
    counts = Counter(gain.verdict for gain in gains.values())
    return Overall(
        silos=len(gains),
        mean=gain_of(mean_of([differences[silo] for silo in gains]), margin),
        better=sum(gain.mean > 0 for gain in gains.values()),
        not_worse=sum(gain.mean >= 0 for gain in gains.values()),
        loss_excluded=sum(low >= 0 for low, _ in ends),
        loss_not_shown=len(gains) - sum(high < 0 for _, high in ends),
        verdicts={value.value: counts[value] for value in Verdict},
        worst=worst,
        worst_gain=gains[worst],
    )


def _corrected(p: Mapping[Key, float | None]) -> dict[Key, float]:
    known = {silo: value for silo, value in p.items() if value is not None}
    if not known:
        return {}
    from scipy.stats import false_discovery_control  # takes half a second to import

    corrected = false_discovery_control(list(known.values()), method="bh")
    return dict(zip(known, map(float, corrected), strict=True))
