"""How do the labels of silos differ?"""

from collections.abc import Mapping

import numpy as np

from fedtl.data.source import Array
from fedtl.results.data_report import LabelShift


def label_shifts(y: Mapping[str, Array], regression: bool) -> dict[str, LabelShift]:
    """
    Return by silo how its labels [N] differ from those of all others together. Without labels a silo is left out; with one silo
    nothing can be compared.
    """
    known = {name: own for name, own in y.items() if len(own)}
    if len(known) < 2:
        return {}
    if regression:
        return {name: _of_values(own, _others(known, name)) for name, own in known.items()}
    classes, numbers = np.unique(np.concatenate(list(known.values())), return_inverse=True)
    ends = np.cumsum([len(own) for own in known.values()])[:-1]
    counts = np.stack([np.bincount(own, minlength=len(classes)) for own in np.split(numbers, ends)])
    return {name: _of_counts(counts[at], counts.sum(0) - counts[at]) for at, name in enumerate(known)}


def _others(y: Mapping[str, Array], name: str) -> Array:
    return np.concatenate([own for other, own in y.items() if other != name])


def _of_values(own: Array, others: Array) -> LabelShift:
    from scipy.stats import ks_2samp  # takes a second to import

    found = ks_2samp(own, others)
    return LabelShift(float(found.statistic), float(found.pvalue))


def _of_counts(own: Array, others: Array) -> LabelShift:
    """Return the total variation distance between the shares, with the p-value of Pearson's chi-squared test."""
    from scipy.stats import chi2_contingency

    distance = np.abs(own / own.sum() - others / others.sum()).sum() / 2
    table = np.stack([own, others])
    table = table[:, table.sum(0) > 0]
    p = chi2_contingency(table).pvalue if table.shape[1] > 1 else 1.0
    return LabelShift(float(distance), float(p))
