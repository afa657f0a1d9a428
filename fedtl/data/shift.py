"""
How well can a classifier tell silos apart by their inputs?

A forest that is trained to name the silo of a row is judged on rows that it was not trained on (Lopez-Paz and Oquab, 2017,
classifier two-sample tests): on each half of the rows, the forest of the other half. Equal rows, and the rows of one unit, are in
the same half, so that it cannot know a row again.

The mean of the two areas under the ROC curve varies at most as much as one of them, whatever their dependence, so its interval is
that of half of the rows. Pooled predictions of more folds depend on each other: their interval held 0.5 in 10 of 15 samples without
a difference.

Where silos have exactly equal shares of some values, such as of the same rows, what one half lacks the other has, and the area lies
below 0.5. A forest that is worse than chance shows no difference, so the interval ends at 0.5 or above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fedtl._util.randomness import address
from fedtl.data.source import Array
from fedtl.results.data_report import Separation

FOLDS = 2
LEAST = 10  # different rows or units of a silo: five in each fold
MOST_ROWS = 3000  # of all silos together
MOST_PAIRS = 12  # silos; of more, only each against all others
TREES = 100
Z = 1.959964  # of the 95 % interval
NEAR = 1e-6
CHANCE = 0.5


@dataclass(frozen=True)
class Sample:
    """Some rows of a silo: their ``features`` [N, F], NaN where a value is missing, and the ``groups`` [N] that stay together."""

    features: Array
    groups: Array


def rows_of_each(silos: int) -> int:
    """Return how many rows of each silo are looked at."""
    return max(20, MOST_ROWS // silos)


def too_few(samples: Mapping[str, Sample]) -> tuple[str, ...]:
    """Return the silos that have too few different rows to be distinguished from others."""
    return tuple(name for name, one in samples.items() if len(np.unique(one.groups)) < LEAST)


def separations(
    samples: Mapping[str, Sample], seed: int
) -> tuple[dict[str, Separation], dict[tuple[str, str], Separation]]:
    """Return how well each silo is distinguished from all others together and, of few silos, from each other one."""
    small = too_few(samples)
    names = [name for name in samples if name not in small]
    if len(names) < 2:
        return {}, {}
    silo = np.repeat(np.arange(len(names)), [len(samples[name].groups) for name in names])
    shares, fold = _shares(samples, names, silo, seed)
    alone: dict[str, Separation] = {}
    pairs: dict[tuple[str, str], Separation] = {}
    for at, name in enumerate(names):
        if found := _separation(shares[:, at], silo == at, silo != at, fold):
            alone[name] = found
    for one, other in combinations(range(len(names) if len(names) <= MOST_PAIRS else 0), 2):
        leaning = shares[:, one] - shares[:, other]
        if found := _separation(leaning, silo == one, silo == other, fold):
            pairs[names[one], names[other]] = found
    return alone, pairs


def _shares(
    samples: Mapping[str, Sample], names: Sequence[str], silo: Array, seed: int
) -> tuple[Array, Array]:
    """Return the probability [N, silos] of each silo that a forest of the other fold gives each row, and the row's fold [N]."""
    from sklearn.ensemble import RandomForestClassifier  # takes a second to import
    from sklearn.model_selection import StratifiedGroupKFold

    features = np.concatenate([samples[name].features for name in names]).astype(np.float32)
    groups = _numbered(np.concatenate([samples[name].groups for name in names]))
    state = address("shift", seed) % 2**32
    shares, fold = np.zeros((len(silo), len(names))), np.zeros(len(silo), int)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=state).split(features, silo, groups)
    for number, (train, test) in enumerate(folds):
        forest = RandomForestClassifier(
            TREES, min_samples_leaf=2, class_weight="balanced", random_state=state
        ).fit(features[train], silo[train])
        shares[np.ix_(test, forest.classes_)] = forest.predict_proba(features[test])
        fold[test] = number
    return shares, fold


def _numbered(groups: Array) -> Array:
    """Return the groups as numbers in the order in which they occur, so that folds do not follow from the hashes."""
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def _separation(scores: Array, own: Array, others: Array, fold: Array) -> Separation | None:
    """Return the mean area over the folds; None where the rows of a group are all in one fold."""
    from sklearn.metrics import roc_auc_score

    areas = []
    for number in range(FOLDS):
        rows = (fold == number) & (own | others)
        if not (own & rows).any() or not (others & rows).any():
            return None
        areas.append(float(roc_auc_score(own[rows], scores[rows])))
    auc = float(np.mean(areas))
    low, high = interval(auc, own.sum() / FOLDS, others.sum() / FOLDS)
    return Separation(auc, (low, max(high, CHANCE)), int(own.sum() + others.sum()))


def interval(auc: float, one: float, other: float) -> tuple[float, float]:
    """
    Return the 95 % interval of an area under the ROC curve of ``one`` and ``other`` rows.

    The ends are the areas A with |auc - A| = z sd(A), where sd(A)^2 = A (1 - A) (1 + n (1 - A) / (2 - A) + n A / (1 + A)) /
    (one other) and n = (one + other) / 2 - 1 (Newcombe, 2006, method 5). It has a width at 0 and 1, too.
    """
    from scipy.optimize import brentq

    half, auc = (one + other) / 2 - 1, min(max(auc, NEAR), 1 - NEAR)  # at 0 and 1, both ends would be roots

    def beyond(area: float) -> float:
        spread = 1 + half * (1 - area) / (2 - area) + half * area / (1 + area)
        return float((auc - area) ** 2 - Z**2 * area * (1 - area) * spread / (one * other))

    return float(brentq(beyond, 0.0, auc)), float(brentq(beyond, auc, 1.0))
