"""
How certain a mean over seeds is: Student's t interval, with the jackknife over test rows and the spread between seeds.

The jackknife (Tukey, 1958) leaves out one row, or all rows of one unit such as a patient, and computes the metric again. For
a metric that is a mean over rows, such as accuracy, the interval of a difference with one seed is that of the paired t test,
and close to McNemar's. Two seeds that share a test row share what that row does, so that a fixed test set does not count as
several. Everything is computed; nothing is drawn at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from fedtl._util.randomness import numpy_generator
from fedtl.results.comparison import Interval
from fedtl.tasks.metrics import METRICS, figure
from fedtl.tasks.row_metrics import Answers, Floats, Integers

# scipy.special: stdtr(freedom, x) is Student's distribution function, and stdtrit(freedom, p) its quantile
LEVEL = 0.05
POWER = 0.8
MAX_GROUPS = 500  # more groups of rows are left out several at a time
MAX_WEIGHTS = 4_000_000  # at once
FLOOR = 2  # rows of a silo with opposite outcomes: the smallest variance that is believed
MEAN_FLOOR = (
    3  # the same for a mean over silos; with 2, intervals of few silos with few rows cover in 92 % of cases
)
TINY = 1e-12  # below this share, a variance is rounding
BY_CLASS = ("classes", "pairs")  # metrics that rest on the rows of the rarest class


@dataclass(frozen=True)
class Block:
    """
    The test rows of one silo, as they act on a mean over seeds. ``influences`` [S, G]: influences @ influences.T is the
    covariance of the values of S seeds that comes from the choice of the test rows. ``least``: the smallest variance that is
    believed; where the metric is ``smooth``, that is only if the rows show none at all. ``freedom``: the degrees of freedom
    of the variance.
    """

    influences: Floats
    least: float
    freedom: float
    smooth: bool = False

    @property
    def covariance(self) -> Floats:
        return np.asarray(self.influences @ self.influences.T)

    @property
    def variance(self) -> float:
        """The variance of the mean over seeds that comes from the choice of the test rows."""
        shown = float(self.covariance.mean())
        if self.smooth:
            return self.least if shown < TINY * self.least else shown
        return max(shown, self.least)

    @property
    def known(self) -> bool:
        """Whether there are enough rows to know the variance."""
        return bool(np.isfinite(self.variance)) and self.freedom > 0

    def scaled(self, factor: float) -> "Block":
        return replace(self, influences=self.influences * factor, least=self.least * factor**2)


@dataclass(frozen=True)
class Certainty:
    """A mean, its standard ``error``, and the degrees of freedom of that error (Welch, 1947; Satterthwaite, 1946)."""

    mean: float
    error: float
    freedom: float

    @property
    def defined(self) -> bool:
        return bool(np.isfinite(self.error)) and self.freedom > 0

    def interval(self) -> Interval | None:
        """Return the 95 % interval; None where there are too few rows for one."""
        if not self.defined:
            return None
        half = float(stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error
        return self.mean - half, self.mean + half

    def p_difference(self) -> float | None:
        """Return the two-sided p-value of a mean of zero; below 0.05 where the interval excludes zero."""
        return None if not self.defined else min(1.0, 2 * self._beyond(abs(self.mean)))

    def p_equivalence(self, margin: float) -> float | None:
        """
        Return twice the p-value of two one-sided tests (Schuirmann, 1987): at most 0.05 where the whole interval lies within
        ``margin`` of zero.
        """
        if not self.defined:
            return None
        return min(1.0, 2 * max(self._beyond(margin - self.mean), self._beyond(margin + self.mean)))

    def detectable(self) -> float | None:
        """Return the smallest true mean whose interval would exclude zero in 80 % of repetitions."""
        if not self.defined:
            return None
        return float(stdtrit(self.freedom, [1 - LEVEL / 2, POWER]).sum()) * self.error

    def _beyond(self, distance: float) -> float:
        """Return the probability that an estimate is off by more than ``distance``, in one direction."""
        if not self.error:
            return 0.0 if distance > 0 else 0.5 if distance == 0 else 1.0
        return float(stdtr(self.freedom, -distance / self.error))


@dataclass(frozen=True)
class Measurement:
    """
    A quantity measured by several seeds: its value for each (``seeds`` [S]), and the test rows of each silo in it. ``least``:
    the smallest variance of all blocks together that is believed.
    """

    seeds: Floats
    blocks: tuple[Block, ...]
    least: float = 0.0

    def certainty(self) -> Certainty:
        """
        Return the mean over seeds and its standard error.

        Its variance is that of the test rows plus s^2 / S, where s^2 is the variance between the seeds. A part of s^2 comes
        from test rows too and is counted already. Half of it is subtracted: with all of it, intervals of three seeds would
        cover too rarely, because s^2 is uncertain itself.
        """
        count = len(self.seeds)
        rows = max(sum(block.variance for block in self.blocks), self.least)
        squares = sum(
            block.variance**2 / block.freedom if block.freedom else np.inf
            for block in self.blocks
            if block.variance
        )
        total = rows
        if count > 1:
            covariance = np.asarray(sum(block.covariance for block in self.blocks))
            shared = (covariance.sum() - np.trace(covariance)) / (count * (count - 1))
            of_rows = float(np.trace(covariance) / count - shared)
            between = float(self.seeds.var(ddof=1))
            total += max(0.0, between - of_rows / 2) / count
            squares += (between / count) ** 2 / (count - 1)
        # Satterthwaite's number is never above the sum, unless the variance is the smallest that is believed.
        most = sum(max(block.freedom, 0) for block in self.blocks) + count - 1
        freedom = min(total**2 / squares, most) if squares else most
        return Certainty(float(self.seeds.mean()), float(np.sqrt(total)), float(freedom))

    def minus(self, other: "Measurement") -> "Measurement":
        """Return the difference of two quantities of the same silo, seed by seed and row by row."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        blocks = (
            replace(mine, influences=mine.influences - its.influences, least=max(mine.least, its.least))
            for mine, its in pairs
        )
        return Measurement(self.seeds - other.seeds, tuple(blocks))

    def negative(self) -> "Measurement":
        return Measurement(-self.seeds, tuple(block.scaled(-1) for block in self.blocks))

    def surely_zero(self) -> "Measurement":
        """Return zero, without any doubt: for the difference of two models that are one and the same."""
        return Measurement(np.zeros_like(self.seeds), (Block(np.zeros((len(self.seeds), 1)), 0.0, np.inf),))


def mean_of(measurements: Sequence[Measurement]) -> Measurement:
    """
    Return the mean over silos, whose test rows do not depend on each other; a seed is the same in all silos. A silo with too
    few rows to know its variance counts with the largest variance of the others.

    Silos whose rows show no difference are many together: the smallest variance that is believed is one for all of them,
    that of MEAN_FLOOR rows of the smallest silo with opposite outcomes, not one for each.
    """
    share = 1 / len(measurements)
    blocks = [block.scaled(share) for own in measurements for block in own.blocks]
    if known := [block for block in blocks if block.known]:
        largest = max(block.variance for block in known)
        unknown = Block(np.zeros((len(measurements[0].seeds), 1)), largest, 1.0)
        blocks = [block if block.known else unknown for block in blocks]
    least = max((block.least for block in blocks if not block.smooth), default=0.0) * MEAN_FLOOR / FLOOR
    shown = tuple(block if block.smooth else replace(block, least=0.0) for block in blocks)
    return Measurement(np.mean([own.seeds for own in measurements], axis=0), shown, least)


def measure(metric: str, seeds: Sequence[Answers], silo: str) -> Measurement:
    """Return a metric on the test rows of a silo; ``seeds``: the answers of each seed."""
    groups = np.unique(np.concatenate([own.groups for own in seeds]))
    of_group = np.arange(len(groups))
    if len(groups) > MAX_GROUPS:
        of_group = numpy_generator("jackknife", silo).permutation(len(groups)) % MAX_GROUPS
    values = [float(figure(metric, own, np.ones((1, len(own.y))))[0]) for own in seeds]
    influences = np.zeros((len(seeds), int(of_group.max()) + 1))
    for row, own in zip(influences, seeds, strict=True):
        left_out = of_group[np.searchsorted(groups, own.groups)]
        present = np.unique(left_out)
        without = _leave_out(metric, own, left_out, present)
        row[present] = np.sqrt((len(present) - 1) / len(present)) * (without.mean() - without)
    carriers, step = _carriers(metric, seeds)
    rests = METRICS[metric].rests
    if rests in BY_CLASS and all(_answers_alike(metric, own) for own in seeds):
        step = 0.0  # the same answer to every row has the same value on any rows
    freedom = min(carriers, influences.shape[1]) - 1
    return Measurement(np.array(values), (Block(influences, FLOOR * step**2, freedom, rests == "pairs"),))


def _answers_alike(metric: str, answers: Answers) -> bool:
    """Return whether every row gets the same answer: the same class, or for AUC the same scores from its model."""
    if METRICS[metric].rests == "classes":
        return len(np.unique(answers.scores.argmax(1))) == 1
    models = answers.models if len(answers.models) else np.zeros(len(answers.y), int)
    return all(len(np.unique(answers.scores[models == one], axis=0)) == 1 for one in np.unique(models))


def _leave_out(metric: str, answers: Answers, group: Integers, present: Integers) -> Floats:
    """Return the metric [G] without each of the groups ``present``; ``group`` [N]: that of each row."""
    at_once = max(1, MAX_WEIGHTS // max(len(group), 1))
    parts = [present[start : start + at_once] for start in range(0, len(present), at_once)]
    kept = (np.not_equal.outer(part, group).astype(float) for part in parts)
    return np.concatenate([figure(metric, answers, weights) for weights in kept])


def _carriers(metric: str, seeds: Sequence[Answers]) -> tuple[int, float]:
    """
    Return how many independent rows (or units) a metric rests on, and by how much one of them can move it: those of the rarest
    class for metrics by class, otherwise all. Two models that agree on all n rows may still differ: the variance is taken
    to be at least that of two rows with opposite outcomes, which gives about the 3 / n of Hanley and Lippman-Hand (1983).
    A continuous metric needs no such limit, and AUC only where both models rank all rows alike.
    """
    y = np.concatenate([own.y for own in seeds])
    groups = np.concatenate([own.groups for own in seeds])
    rests = METRICS[metric].rests
    if rests not in BY_CLASS:
        count = len(np.unique(groups))
        return count, 0.0 if rests == "values" else 1 / count
    classes = np.unique(y)
    count = min(len(np.unique(groups[y == one])) for one in classes)
    return count, 1 / count / (len(classes) if rests == "classes" else 1)
