"""Columns of a table that determine the label, alone or together: often their values are known only after the label."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from fedtl.data.labels import label_texts, without_label
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, finite_numbers

EXACTLY = 1e-6  # up to which a sum of columns is the label
FEW_VALUES = 20  # of a column; with fewer rows or values, little can be said of it
MANY_VALUES = 30  # of a column; so many do not lie in a few intervals by chance
FEW_ROWS = 10  # of a class; fewer may lie together by chance
MIXED = 0.25  # the share of sorted rows whose class is not that of the row before, above which no few intervals tell it
# From which a column nearly determines the label. Honest predictors stay below: the best columns of scikit-learn's iris, wine and
# breast cancer have 0.96, 0.85 and 0.98.
NEARLY = 0.99


def decisive_columns(
    x: Array, y: Array, names: Sequence[str], settings: DataSettings
) -> Iterator[tuple[str, float]]:
    """
    Yield each column that alone nearly determines the label, with a number from NEARLY to 1. For classes it is the share of rows, averaged
    over classes, that a few intervals of the column predict; between two classes the AUC, where it is larger. For the values of a regression
    it is the rank correlation. With classes, a missing cell counts as a value, too. Classes of fewer than FEW_ROWS rows are left out.
    """
    if y.ndim > 1:
        return
    measure: Callable[[Array, Array], float]
    if settings.predicted.has_classes:
        target = _common_classes(y)
        count = len(np.unique(target[np.isfinite(target)]))
        if count < 2:
            return
        measure = _separation if count == 2 else partial(_share_in_intervals, count=count)
    else:
        target, measure = finite_numbers(y), _rank_correlation
    labelled = np.isfinite(target)
    for name, column in zip(names, x.T, strict=True):
        there = ~np.isnan(column) & labelled
        values = [(column[there], target[there])]
        if settings.predicted.has_classes and (labelled & ~there).sum() >= FEW_ROWS:
            # That a cell is missing can determine the class.
            values.append((_missing_first(column[labelled]), target[labelled]))
        shares = [measure(*one) for one in values if len(one[1]) >= FEW_VALUES and len(np.unique(one[1])) > 1]
        if max(shares, default=0.0) >= NEARLY:
            yield name, max(shares)


def _missing_first(column: Array) -> Array:
    """Return numbers in the order of the values, a missing one before all."""
    there = ~np.isnan(column)
    numbers = np.zeros(len(column))
    numbers[there] = 1 + np.unique(column[there], return_inverse=True)[1]
    return numbers


def _common_classes(y: Array) -> Array:
    """Return the number of each row's class [N], from 0; NaN without a label, and of a class with few rows."""
    texts = np.array(label_texts(y))
    classes, counts = np.unique(texts[~without_label(y)], return_counts=True)
    number = {label: float(place) for place, label in enumerate(classes[counts >= FEW_ROWS])}
    return np.array([number.get(text, np.nan) for text in texts.tolist()])


def columns_together(x: Array, y: Array, names: Sequence[str], settings: DataSettings) -> tuple[str, ...]:
    """
    Return the columns of which a weighted sum is the indicator of a class in every row, to the last digit; () where there are none, or one
    alone does it. With at least three rows for each column this cannot be chance: such columns say what the label says.
    """
    if y.ndim > 1 or not settings.predicted.has_classes:
        return ()
    complete = np.isfinite(x).all(1)
    inputs, texts = x[complete], np.array(label_texts(y))[complete]
    spread = inputs.std(0) if len(inputs) else np.zeros(0)
    kept = np.flatnonzero(spread > 0)
    if len(inputs) < 3 * len(kept) + FEW_VALUES or len(kept) < 2:
        return ()
    scaled = np.column_stack(
        [(inputs[:, kept] - inputs[:, kept].mean(0)) / spread[kept], np.ones(len(inputs))]
    )
    classes = np.unique(texts)[:FEW_VALUES]
    if len(classes) < 2:
        return ()
    is_it = (texts[:, None] == classes).astype(float)
    weights = np.linalg.lstsq(scaled, is_it, rcond=None)[0]
    exact = np.flatnonzero(np.abs(scaled @ weights - is_it).max(0) < EXACTLY)
    own = (np.abs(weights[:-1, exact]) > EXACTLY).any(1)
    return tuple(names[column] for column in kept[own]) if own.sum() > 1 else ()


def _share_in_intervals(column: Array, y: Array, count: int) -> float:
    """
    Return how well intervals of the column's values separate the ``count`` classes: the share of a class's rows that lie in intervals of
    that class, averaged over the classes; 0.0 where a class has few rows with a value, or the classes lie mixed.

    The intervals are found by one cut after another, as in a decision tree (Breiman et al., 1984): one for each class, and one more where
    the column has many values. Where it has at most twice as many values as there are classes, each value is an interval. With more
    intervals, values that belong to few units, such as the age of a patient with many rows, would predict the class by chance.
    """
    order = np.lexsort((y, column))
    values, classes = column[order], y[order].astype(int)
    sizes = np.bincount(classes, minlength=count)
    if sizes.min() < FEW_ROWS or np.count_nonzero(np.diff(classes)) > count + MIXED * len(classes):
        return 0.0
    weights = np.eye(count)[classes] / (count * sizes)
    below = np.vstack([np.zeros(count), weights.cumsum(0)])  # of the rows before each
    ends = np.array([0, *(np.flatnonzero(np.diff(values)) + 1), len(values)])
    if len(ends) - 1 > 2 * count:
        mixed = classes[ends[:-1]] != classes[ends[1:] - 1]  # values of more than one class
        change = mixed[1:] | mixed[:-1] | (classes[ends[1:-1]] != classes[ends[1:-1] - 1])
        # The best cuts are where the class changes (Fayyad and Irani, 1992).
        ends = _intervals(below, ends[np.r_[True, change, True]], count + (len(ends) > MANY_VALUES))
    return min(float(np.diff(below[ends], axis=0).max(1).sum()), 1.0)


def _intervals(below: Array, cuts: Array, count: int) -> Array:
    """
    Return the ends of ``count`` intervals: the cut is made next that lowers the Gini impurity most. ``below`` [N + 1, classes]: the
    weight of the rows before each; ``cuts``: where a cut is possible, in order, and both ends.
    """
    parts: dict[tuple[int, int], tuple[float, int]] = {}

    def add(first: int, last: int) -> None:
        """Add the part between two cuts, with the best cut inside it and its gain."""
        start, inside, end = below[cuts[first]], below[cuts[first + 1 : last]], below[cuts[last]]
        if len(inside):
            purities = _purity(inside - start) + _purity(end - inside)
            best = int(purities.argmax())
            parts[first, last] = float(purities[best] - _purity(end - start)), first + 1 + best

    chosen = {0, len(cuts) - 1}
    add(0, len(cuts) - 1)
    while parts and len(chosen) <= count:
        (first, last), (_, middle) = max(parts.items(), key=lambda part: part[1][0])
        del parts[first, last]
        chosen.add(middle)
        add(first, middle)
        add(middle, last)
    return np.asarray(cuts[sorted(chosen)])


def _purity(weights: Array) -> Array:
    """Return the sum of squares over the sum, of each row of weights [..., classes]."""
    return np.asarray((weights**2).sum(-1) / np.maximum(weights.sum(-1), 1e-300))


def _separation(column: Array, y: Array) -> float:
    """Return the AUC between two classes or, where one lies between two parts of the other, the share of rows in its intervals."""
    return max(_auc(column, y), _share_in_intervals(column, y, 2))


def _auc(column: Array, y: Array) -> float:
    """Return the area under the ROC curve, or of its reverse: Mann and Whitney's U over all pairs."""
    ranks, positive = _ranks(column), y == 1
    count = int(positive.sum())
    area = (ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(y) - count))
    return float(max(area, 1 - area))


def _rank_correlation(column: Array, y: Array) -> float:
    """Return the size of Spearman's correlation; 0 for a constant."""
    if (column == column[0]).all():
        return 0.0
    return float(abs(np.corrcoef(_ranks(column), _ranks(y))[0, 1]))


def _ranks(values: Array) -> Array:
    """Return the ranks from 1, of equal values their mean."""
    from scipy import stats  # takes a second to import

    return np.asarray(stats.rankdata(values))
