"""
One set of rows divided among simulated silos that differ in their labels or in their sizes (``data.partition``).

By label (Yurochkin et al., 2019; the Dirichlet partition of most benchmarks since Hsu et al., 2019): for each class k the
shares p_k ~ Dirichlet(alpha, ..., alpha) of the silos are drawn, and silo i gets p_ki of the rows of class k, of training,
validation and test rows alike, so that a silo is tested on rows like those it trains on. By size: one draw of shares for
all rows, whatever their labels.

The division follows from the settings, the numbers of rows and, by label, the labels; not from the seed of a run.
"""

from dataclasses import replace

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.labels import label_texts
from fedtl.data.settings import PartitionSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

DRAWS = 1000  # of shares, until every silo has enough rows
FEW = 5  # rows of one class that a silo has at least, if it has any: some stay to train on after the splits


def partition_names(settings: PartitionSettings) -> list[str]:
    """Return the names of the simulated silos, in order: silo-1, or silo-01 where there are ten or more."""
    digits = len(str(settings.silos))
    return [f"silo-{number:0{digits}}" for number in range(1, settings.silos + 1)]


def silo_rows(raw: Raw, settings: PartitionSettings, name: str, where: str) -> Raw:
    """
    Return the rows of the silo ``name``; over all silos, each row of ``raw`` once. ``where`` names the set in messages.
    Raises DataError where no draw gives every silo the rows that it needs.
    """
    number = partition_names(settings).index(name)
    shares = _shares(raw, settings, where)

    def own(part: Part | None, key: str) -> Part | None:
        return (
            None
            if part is None
            else part.take(divide(_groups(part, settings), shares, key, settings.seed)[number])
        )

    train = own(raw.train, "train")
    assert train is not None
    return replace(raw, train=train, val=own(raw.val, "val"), test=own(raw.test, "test"))


def divide(groups: Array, shares: dict[str, Array], key: str, seed: int) -> list[Array]:
    """
    Return the row numbers of each silo, ascending. ``groups`` [N]: the group of each row; ``shares``: by group, the share
    [silos] of its rows that each silo gets, in whole rows by largest remainders. Which rows they are is random.
    """
    silos = len(next(iter(shares.values())))
    drawn: list[list[Array]] = [[] for _ in range(silos)]
    for group in np.unique(groups).tolist():
        rows = numpy_generator("partition", seed, key, group).permutation(np.flatnonzero(groups == group))
        ends = np.cumsum(whole_rows(shares[group], len(rows)))
        for number, own in enumerate(np.split(rows, ends[:-1])):
            drawn[number].append(own)
    return [np.sort(np.concatenate(own)) for own in drawn]


def whole_rows(shares: Array, rows: int) -> Array:
    """Return the numbers [silos] of ``rows`` rows by these shares, which sum to 1: largest remainders, none for a share of 0."""
    ideal = shares * rows
    counts = np.floor(ideal).astype(int)
    for rounded_up in np.argsort(counts - ideal, kind="stable")[: rows - counts.sum()]:
        counts[rounded_up] += 1
    return counts


def _groups(part: Part, settings: PartitionSettings) -> Array:
    """Return what the shares of each row follow from, [N] of text: its label, or nothing."""
    if settings.by == "size":
        return np.full(len(part.y), "")
    return np.array(label_texts(part.y))


def _shares(raw: Raw, settings: PartitionSettings, where: str) -> dict[str, Array]:
    """Return the shares of each group: the first draw with which every silo has enough rows. Raises DataError."""
    parts = [_groups(part, settings) for part in (raw.train, raw.val, raw.test) if part is not None]
    counts = dict(zip(*(values.tolist() for values in np.unique(parts[0], return_counts=True)), strict=True))
    if missing := sorted(set(np.concatenate(parts).tolist()) - counts.keys()):
        raise DataError(f"{where}: label {missing[0]!r} is in no training row; remove its rows")
    rng = numpy_generator("shares", settings.seed)
    for _ in range(DRAWS):
        shares = {group: _draw(count, settings, rng) for group, count in counts.items()}
        if _enough(shares, parts, counts, settings):
            return shares
    raise DataError(
        f"{where}: in {DRAWS} draws, data.partition did not give each of {settings.silos} silos {settings.minimum} of "
        f"{len(parts[0])} training rows{' and two labels' if settings.by == 'label' else ''}; decrease "
        "data.partition.silos or minimum, or increase alpha"
    )


def _draw(rows: int, settings: PartitionSettings, rng: np.random.Generator) -> Array:
    """
    Return shares [silos] of a group of ``rows`` training rows. By label, a silo whose share is fewer than FEW rows gets none
    of the class, and the largest share takes it over.
    """
    shares = rng.dirichlet(np.full(settings.silos, settings.alpha))
    if settings.by == "label":
        shares[(shares * rows < FEW) & (np.arange(len(shares)) != shares.argmax())] = 0
    return shares / shares.sum()


def _enough(
    shares: dict[str, Array], parts: list[Array], counts: dict[str, int], settings: PartitionSettings
) -> bool:
    """Return whether every silo has ``minimum`` training rows, a row of each other part and, by label, two classes."""
    by_group = np.stack([whole_rows(shares[group], count) for group, count in counts.items()])
    if by_group.sum(0).min() < settings.minimum:
        return False
    if settings.by == "label" and np.count_nonzero(by_group, 0).min() < 2:
        return False
    others = [dict(zip(*np.unique(part, return_counts=True), strict=True)) for part in parts[1:]]
    return all(
        np.sum([whole_rows(shares[str(group)], int(count)) for group, count in other.items()], 0).min() > 0
        for other in others
    )
